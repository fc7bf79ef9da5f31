# SPDX-License-Identifier: Apache-2.0
"""The kernel picks the slots that PyTorch picks: interpreted on the CPU, compiled where there is a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tokenprune import functional
from tokenprune import max_min as loops
from tokenprune.functional import greedy_path, max_min_diversity

CASES = (
    *(f"{kind} {n}" for n in (5, 33, 70) for kind in ("random", "weighted")),
    *("several chosen", "nothing to pick", "identical tokens", "copies", "copies of equal weight"),
    *("ragged", "ragged, weighted", "whole function"),
)


@pytest.fixture(scope="module")
def interpreted():
    """Slots of all cases; Triton reads the switch when it is imported, hence the other process."""
    if not loops._has_triton():
        pytest.skip("triton is not made for this platform")
    program = Path(__file__).with_name("interpreted_kernel.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_the_interpreted_kernel_picks_the_same_slots(interpreted, case):
    by_kernel, by_loop = interpreted[case]
    assert by_kernel == by_loop


def test_no_case_was_forgotten(interpreted):
    assert set(interpreted) == set(CASES)
    assert interpreted["identical tokens"][0] == [list(range(1, 20)), [s for s in range(20) if s != 4]]


COMPILE = """
import json, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tokenprune.max_min_triton import _pick_kernel
pointers = dict(similarity="*fp32", weights="*fp32", start="*i32", counts="*i32", order="*i64")
sizes = dict(n="i32", n_start="i32", n_picks="i32", WEIGHTED="constexpr", BLOCK="constexpr")
source = ASTSource(_pick_kernel, pointers | sizes, constexprs=dict(WEIGHTED=True, BLOCK=4096))
options = dict(num_warps=16, enable_fp_fusion=False)
print(json.dumps(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]))
"""


def test_the_kernel_compiles_for_a_gpu_that_need_not_be_here(tmp_path):
    if not loops._has_triton():
        pytest.skip("triton is not made for this platform")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMPILE],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code = json.loads(done.stdout)
    assert ".entry _pick_kernel" in code
    assert "fma" not in code  # every product and sum is rounded, as PyTorch rounds them


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
@pytest.mark.parametrize(("b", "n", "keep"), [(1, 16, 4), (5, 577, 64), (2, 2880, 640), (1, 8192, 100)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_compiled_kernel_picks_the_same_slots(b, n, keep, weighted):
    generator = torch.Generator().manual_seed(n)
    features = torch.randn(b, n, 64, generator=generator).cuda()
    weights = torch.rand(b, n, generator=generator).cuda() if weighted else None
    start, counts = torch.zeros(b, 1, dtype=torch.long).cuda(), torch.full((b,), n - 3).cuda()
    similarity = functional.Similarity(features)
    by_kernel = loops.pick(similarity, keep, weights, start, counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "can_fuse", lambda device: False)
        by_loop = loops.pick(similarity, keep, weights, start, counts)
    assert torch.equal(by_kernel, by_loop)


def test_without_a_gpu_or_triton_or_beyond_the_limit_no_kernel_picks(monkeypatch):
    assert greedy_path("cpu", 576) == "numpy"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(loops, "_has_triton", lambda: True)
    assert greedy_path("cuda", 576) == "triton"
    assert greedy_path("cuda", functional.GRAM_LIMIT + 1) == "torch"
    monkeypatch.setattr(loops, "_has_triton", lambda: False)
    assert greedy_path("cuda", 576) == "torch"


@pytest.mark.parametrize("weighted", [False, True])
def test_padding_is_never_picked_and_an_image_that_runs_out_says_so(weighted):
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(3, 12, 4, generator=generator)
    weights = torch.rand(3, 12, generator=generator) if weighted else None
    counts = torch.tensor([12, 7, 2])
    picks = max_min_diversity(features, 5, weights, counts=counts)
    for i, n in enumerate(counts.tolist()):
        own = None if weights is None else weights[i, :n]
        assert picks[i, :n].tolist() == max_min_diversity(features[i, :n], min(5, n), own).tolist()
    assert picks[2, 2:].tolist() == [-1, -1, -1]


def test_a_stack_that_would_hold_too_many_similarities_is_picked_in_parts(monkeypatch):
    features = torch.randn(5, 20, 6, generator=torch.Generator().manual_seed(2))
    weights = torch.rand(5, 20, generator=torch.Generator().manual_seed(3))
    picks = max_min_diversity(features, 6, weights)
    held = []
    similarity = functional.Similarity
    monkeypatch.setattr(
        functional, "Similarity", lambda rows, whole: held.append(len(rows)) or similarity(rows)
    )
    monkeypatch.setattr(functional, "GRAM_LIMIT", 29)  # two matrices of 20 x 20 fit 29 x 29
    assert torch.equal(max_min_diversity(features, 6, weights), picks)
    assert held == [2, 2, 1]


def test_finding_the_most_isolated_token_leaves_the_similarities_as_they_were():
    similarity = functional.Similarity(torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(1)))
    before = similarity.matrix.clone()
    similarity.most_isolated()
    assert torch.equal(similarity.matrix, before)


def test_a_stack_changes_no_bit_of_an_images_similarities():
    features = torch.randn(4, 50, 33, generator=torch.Generator().manual_seed(4))
    together = functional.Similarity(features).matrix
    assert all(
        torch.equal(functional.Similarity(features[i : i + 1]).matrix[0], together[i]) for i in range(4)
    )
