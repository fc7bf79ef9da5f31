# SPDX-License-Identifier: Apache-2.0
"""Run by test_max_min_triton.py in a process of its own: the kernel through Triton's interpreter, on the CPU.

Prints JSON: for each case the slots of the kernel and of the PyTorch loop.
"""

import json
import sys

import torch

from tokenprune import max_min_triton
from tokenprune.functional import Similarity, max_min_diversity
from tokenprune.max_min import pick


def both(features, picks, weights, start, counts=None):
    """Slots by kernel and by loop."""
    similarity = Similarity(features)
    whole = torch.full((len(features),), features.shape[1]) if counts is None else counts
    kernel = max_min_triton.pick_triton(similarity.matrix, picks, weights, start, whole)
    return [kernel.tolist(), pick(similarity, picks, weights, start, counts).tolist()]


def cases():
    """Name and slots of random, tied and ragged inputs."""
    generator = torch.Generator().manual_seed(0)
    for b, n, keep in ((1, 5, 4), (3, 33, 12), (2, 70, 69)):
        features = torch.randn(b, n, 6, generator=generator)
        weights = torch.rand(b, n, generator=generator)
        start = torch.randint(n, (b, 1), generator=generator)
        yield f"random {n}", both(features, keep, None, start)
        yield f"weighted {n}", both(features, keep, weights, start)
    features = torch.randn(2, 24, 5, generator=generator)
    several = torch.tensor([[3, 0, 7], [20, 21, 1]])
    yield "several chosen", both(features, 9, None, several)
    yield "nothing to pick", both(features, 0, None, several)
    yield "identical tokens", both(torch.ones(2, 20, 3), 19, None, torch.tensor([[0], [4]]))
    copies = torch.randn(1, 6, 4, generator=generator).repeat(2, 4, 1)
    yield "copies", both(copies, 23, None, torch.tensor([[2], [13]]))
    steps = torch.tensor([0.0, 0.5, 1.0]).repeat(8).expand(2, 24).contiguous()
    yield "copies of equal weight", both(copies, 23, steps, torch.tensor([[2], [5]]))
    counts = torch.tensor([24, 5])
    yield "ragged", both(features, 10, None, torch.tensor([[1], [4]]), counts)
    yield "ragged, weighted", both(features, 10, steps, torch.tensor([[2], [2]]), counts)


if __name__ == "__main__":
    found = dict(cases())
    features = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(7))
    by_loop = max_min_diversity(features, 8).tolist()
    sys.modules["tokenprune.max_min"].can_fuse = lambda device: True
    found["whole function"] = [max_min_diversity(features, 8).tolist(), by_loop]
    print(json.dumps(found))
