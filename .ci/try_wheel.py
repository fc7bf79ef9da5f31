# SPDX-License-Identifier: Apache-2.0
"""Install a wheel as a user would, in a fresh environment outside of the checkout, and run it there."""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
import zipfile
from pathlib import Path

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
SAY = "import json, sys; print(json.dumps([sys.executable, '%d.%d' % sys.version_info[:2]]))"
SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"
# where each package of the wheel would be imported from, and the versions that pip chose
LOOK = """
import importlib.metadata as metadata, importlib.util, json, sys
found = {name: importlib.util.find_spec(name).origin for name in sys.argv[1:]}
versions = {name: metadata.version(name) for name in ("tokenprune-vlm", "torch", "transformers")}
print(json.dumps([found, versions]))
"""
COMMANDS = (
    ("demo", "--scenes", "2", "--method", "zoo-exact", "--keep", "36", "--output", "demo"),
    ("check",),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `.ci/release.py try`."""
    parser.add_argument("wheel", type=Path)
    parser.add_argument(
        "--python",
        action="append",
        metavar="PYTHON",
        help=f"interpreter to try it on, may be repeated; default: each of {', '.join(PYTHONS)} found here",
    )
    parser.add_argument(
        "--borrow",
        metavar="PYTHON",
        help="interpreter whose environment lends what the wheel needs: quick, but no true install",
    )


def output(command: list[object], **options: object) -> str:
    """Return what a command prints; it must succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def ask(python: str) -> tuple[str, str]:
    """Return the path of an interpreter and its version, such as 3.12."""
    path, version = json.loads(output([python, "-c", SAY]))
    return path, version


def present() -> list[str]:
    """Return the interpreters on this machine; a name may be there without one behind it."""
    found = []
    for name in (f"python{version}" for version in PYTHONS):
        works = shutil.which(name) and not subprocess.run([name, "-c", ""], capture_output=True).returncode
        print(f"{name}: {'found' if works else 'not on this machine'}", flush=True)
        if works:
            found.append(name)
    return found


def packages(wheel: Path) -> list[str]:
    """Return the packages that a wheel installs."""
    with zipfile.ZipFile(wheel) as opened:
        names = {name.split("/")[0] for name in opened.namelist() if name.endswith("/__init__.py")}
    return sorted(names)


def surroundings() -> dict[str, str]:
    """Return the environment without what would let the checkout or another package in; downloads are off."""
    other = ("PYTHON", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(other)}
    return kept | {"PYTHONNOUSERSITE": "1", "HF_HUB_OFFLINE": "1"}


def attempt(wheel: Path, interpreter: str, borrow: str | None, folder: Path) -> str:
    """Install and run the wheel with one interpreter, and return a line about it."""
    path, version = ask(interpreter)
    print(f"Python {version}: installing", flush=True)
    begin = time.monotonic()
    inside = folder / "environment" / ("Scripts" if os.name == "nt" else "bin")
    python = inside / "python"
    venv = [path, "-m", "venv", folder / "environment"]
    install = ["-m", "pip", "--quiet", "--disable-pip-version-check", "install", wheel]
    if borrow:
        output([*venv, "--without-pip"], env=surroundings())
        lent, own = (output([each, "-c", SITE]).strip() for each in (borrow, python))
        Path(own, "borrowed.pth").write_text(f"import site; site.addsitedir({lent!r})\n")
        install[2:2] = ["--python", python]
        output([borrow, *install, "--no-deps", "--no-index", "--ignore-installed"], env=surroundings())
    else:
        output(venv, env=surroundings())
        output([python, *install], env=surroundings())
    installed = time.monotonic()
    look = [python, "-c", LOOK, *packages(wheel)]
    files, versions = json.loads(output(look, cwd=folder, env=surroundings()).splitlines()[-1])
    elsewhere = [file for file in files.values() if not Path(file).is_relative_to(folder / "environment")]
    if elsewhere or versions["tokenprune-vlm"] != wheel.name.split("-")[1]:
        raise SystemExit(f"not the wheel that was installed: {elsewhere or versions}")
    last = ""
    for command in COMMANDS:
        print(f"Python {version}: tokenprune {command[0]}", flush=True)
        said = output([inside / "tokenprune", *command], cwd=folder, env=surroundings())
        last = said.strip().splitlines()[-1]
    done = time.monotonic()
    others = ", ".join(f"{name} {number}" for name, number in versions.items() if name != "tokenprune-vlm")
    how = "borrowed" if borrow else "installed"
    return (
        f"Python {version}: {wheel.name} with {others} ({how} in {installed - begin:.0f} s), "
        f"demo and check in {done - installed:.0f} s; {last}"
    )


def main(options: argparse.Namespace) -> int:
    """Try a wheel on each interpreter; the first failure ends it."""
    wheel = options.wheel.resolve()
    if not wheel.is_file() or wheel.suffix != ".whl":
        raise SystemExit(f"{options.wheel} is no wheel; `.ci/release.py build` writes one into dist/")
    pythons = options.python or ([options.borrow] if options.borrow else present())
    if not pythons:
        raise SystemExit(f"none of Python {', '.join(PYTHONS)} is on this machine; name one with --python")
    for python in pythons:
        if options.borrow and ask(python)[1] != ask(options.borrow)[1]:
            raise SystemExit(
                f"--borrow {options.borrow} is Python {ask(options.borrow)[1]}, which lends nothing to "
                f"{python}, Python {ask(python)[1]}; leave --borrow out"
            )
    for python in pythons:
        with tempfile.TemporaryDirectory() as folder:
            print(attempt(wheel, python, options.borrow, Path(folder).resolve()), flush=True)
    return 0
