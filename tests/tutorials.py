# SPDX-License-Identifier: Apache-2.0
"""Follow a tutorial command by command, in an environment of its own."""

import shlex

from plugin_environments import pip_install, run
from shown_commands import blocks, lines


def follow(page, python, folder):
    """Run the commands of a page's bash blocks in order, from `folder`, with the programs of an environment.

    Returns
    -------
    Path, dict
        The folder in which the last command ran, and what each command said.
    """
    said = {}
    known = {"python": [python], "tokenprune": [python, "-m", "tokenprune_cli"]}
    for line in (line for block in blocks(page, "bash") for line in lines(block)):
        program, *arguments = shlex.split(line, comments=True)
        if program == "cd":
            folder = folder / arguments[0]
        elif (program, arguments[:1]) == ("pip", ["install"]):
            pip_install(python, *arguments[1:], folder=folder)
        else:
            said[shlex.join([program, *arguments])] = run([*known[program], *arguments], folder)
    return folder, said
