"""The environment's variables of this program: those that are no settings, and unknown ones."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from rbee_worker.config.option import ENV_PREFIX
from rbee_worker.config.table import OPTIONS
from rbee_worker.errors import one_line

# Variables that are not settings.
OTHER_VARIABLES = (
    "RBEE_API_TOKEN",
    "RBEE_CPU_ASSEMBLY",
    "RBEE_CPU_ISA",
    "RBEE_CPU_READING",
    "RBEE_DEBUG",
    "RBEE_PIP_ARGS",
)
_OF_TESTS = "RBEE_TEST_"
_LONGEST = 64  # characters of a name that a message shows


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that starts like ours but is unknown, with the nearest known
    one. Values are not shown: they may be secrets."""
    known = {*(option.env for option in OPTIONS), *OTHER_VARIABLES}
    told = []
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in known and not name.startswith(_OF_TESTS):
            shown = one_line(name, _LONGEST)
            near = difflib.get_close_matches(shown, known, n=1, cutoff=0.8)
            hint = f"; did you mean {near[0]}?" if near else ""
            told.append(f"the environment variable {shown} is not one of this program's{hint}")
    return told
