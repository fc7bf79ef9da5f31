# SPDX-License-Identifier: Apache-2.0
"""Environments in which tests build and install plugins with pip, without network.

They borrow torch and tokenprune from the one the tests run in (installing torch again would take minutes and
network); pip gets no index.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

# pip's options for one of these environments: without index, isolation or dependencies
OFFLINE = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]


def make_environment(path, *, pip=False):
    """Make an environment that sees the packages of this one, and return its python."""
    options = [] if pip else ["--without-pip"]
    subprocess.run([sys.executable, "-m", "venv", *options, path], check=True)
    python = path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    borrowed = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    Path(site, "borrowed.pth").write_text(borrowed)
    return python


def pip_install(python, *arguments, folder=None):
    """Build and install packages with pip, in `folder` if they are given as relative paths."""
    run([sys.executable, "-m", "pip", "--python", python, "install", *OFFLINE, *arguments], folder)


def run(command, folder=None):
    """Run a command and return its output; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
