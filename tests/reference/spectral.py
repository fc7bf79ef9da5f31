# SPDX-License-Identifier: Apache-2.0
"""CLSE's score in loops, float64, by the definition of the discrete Fourier transform. arXiv 2606.24165."""

import cmath
import math

import numpy as np


def frequency(index, n):
    """Signed frequency of an entry of a spectrum of n."""
    return index if 2 * index < n else index - n


def magnitudes(rows, h, w, cutoff=0.1):
    """Mean magnitude over channels of high-pass filtered rows (h w, C), (h w,)."""
    picture = np.asarray(rows, dtype=np.float64).reshape(h, w, -1)
    sigma = cutoff * min(h // 2, w // 2)
    filtered = np.zeros(picture.shape, dtype=complex)
    for u in range(h):
        for v in range(w):
            wave = np.array(
                [[cmath.exp(2j * math.pi * (u * y / h + v * x / w)) for x in range(w)] for y in range(h)]
            )
            squared = frequency(u, h) ** 2 + frequency(v, w) ** 2
            passes = float(squared > 0) if sigma == 0 else 1 - math.exp(-squared / (2 * sigma**2))
            amplitude = (picture * wave.conj()[..., None]).sum((0, 1)) / (h * w)  # of each channel
            filtered += passes * amplitude * wave[..., None]
    return np.abs(filtered).mean(-1).reshape(-1)


def weights(before, after, temperature=0.1, eps=1e-6):
    """Sigmoid of the standardised change between two lists of magnitudes."""
    mean = sum(before) / len(before)
    change = [min(abs(b - a) / (mean + a + eps), 1) for a, b in zip(before, after, strict=True)]
    centre = sum(change) / len(change)
    spread = math.sqrt(sum((c - centre) ** 2 for c in change) / max(1, len(change) - 1))
    return np.array([1 / (1 + math.exp(-(c - centre) / (spread + eps) / temperature)) for c in change])


def scores(before, after, attention, h, w, cutoff=0.1, temperature=0.1):
    """The score of each token of a picture: rows (N, C) at layer 0 and at the cut, attention (H, N)."""
    by_spectrum = weights(magnitudes(before, h, w, cutoff), magnitudes(after, h, w, cutoff), temperature)
    return by_spectrum * np.asarray(attention, dtype=np.float64).mean(0)
