# SPDX-License-Identifier: Apache-2.0
"""Steps to run on a GPU, and a micro version of each for machines without one."""

from __future__ import annotations

from dataclasses import dataclass

METHODS = ("zoo-exact", "divprune", "visionzip", "fastv")  # beside unpruned, downsample and oracle
TESTS = (
    "tests/adapters/test_gpu_promises.py",
    "tests/core/test_devices.py",
    "tests/core/test_max_min_triton.py",
)
TWIN_OF_TESTS = "cpu and float16 and llava and saving and not next"  # `make test` runs the others


@dataclass(frozen=True)
class Step:
    """A command of this checkout, `python -m ...`, and its time limit in seconds.

    `{record}` in the arguments stands for the file that the command writes.
    """

    name: str
    arguments: tuple[str, ...]
    seconds: int


def steps(micro: bool) -> tuple[Step, ...]:
    """Return all steps in order: tests before slow benchmarks."""
    if micro:
        speed = ("--preset", "micro", "--device", "cpu", "--dtype", "float32", "--repeats", "1")
        return (
            Step("tests", _tests("-m", "not gpu", "-k", TWIN_OF_TESTS), 300),
            Step("bench-micro", _bench(*speed, "--keep", "9", "--batch", "1", "--batch", "2"), 300),
        )
    return (
        Step("tests", _tests("-m", "gpu"), 180),
        *(
            Step(f"bench-{preset}-batch-{batch}", _speed(preset, keep, batch), 120)
            for preset, keep in (("llava-1.5-7b", 64), ("llava-next-7b", 160), ("qwen2.5-vl-7b", 130))
            for batch in (1, 8)
        ),
    )


def _tests(*selected: str) -> tuple[str, ...]:
    report = ("-o", "junit_family=xunit1", "--junitxml", "{record}")
    # ignore warnings of other versions of dependencies
    return ("pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", *report, *selected, *TESTS)


def _speed(preset: str, keep: int, batch: int) -> tuple[str, ...]:
    where = ("--device", "cuda", "--dtype", "bfloat16")
    return _bench("--preset", preset, *where, "--keep", str(keep), "--batch", str(batch), "--repeats", "5")


def _bench(*options: str) -> tuple[str, ...]:
    methods = [word for method in METHODS for word in ("--method", method)]
    return (
        "tokenprune_cli",
        "bench",
        *options,
        *methods,
        "--new-tokens",
        "1",
        "--output",
        "{record}",
    )
