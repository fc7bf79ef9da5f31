# SPDX-License-Identifier: Apache-2.0
"""DART in loops, float64. METHODS: arXiv 2502.11494."""

import numpy as np


def largest_keys(keys, count):
    """Numbers of the tokens whose keys (H, N, d) have the largest L1 norm, largest first."""
    norms = np.abs(np.asarray(keys, dtype=np.float64)).sum((0, 2))
    return sorted(range(len(norms)), key=lambda j: (-norms[j], j))[:count]


def dart(image, text, image_keys, text_keys, keep, n_pivots=4):
    """Slots in the order they are picked: image pivots, then for each pivot those of lowest cosine."""
    image, text = (np.asarray(rows, dtype=np.float64) for rows in (image, text))
    chosen = largest_keys(image_keys, min(n_pivots, keep))
    pivots = [image[j] for j in chosen] + [text[j] for j in largest_keys(text_keys, n_pivots)]
    share, more = divmod(keep - len(chosen), len(pivots))
    for number, pivot in enumerate(pivots):
        for _ in range(share + (number < more)):
            cosines = {
                j: image[j] @ pivot / (np.linalg.norm(image[j]) * np.linalg.norm(pivot))
                for j in range(len(image))
                if j not in chosen
            }
            chosen.append(min(cosines, key=lambda j: (cosines[j], j)))
    return chosen
