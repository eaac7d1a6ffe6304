"""Text for the clipboard: by a program of the desktop, or by the terminal itself."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

from rbee_worker.errors import UsageError

# (the variable without which the program has no desktop to talk to, its words)
_PROGRAMS = (
    ("", ("pbcopy",)),
    ("WAYLAND_DISPLAY", ("wl-copy",)),
    ("DISPLAY", ("xclip", "-selection", "clipboard")),
    ("DISPLAY", ("xsel", "--clipboard", "--input")),
)
_MOST = 74_994  # bytes in base64 that terminals take in one sequence


def copy(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Copy `text`; returns how. Raises UsageError if there is no way."""
    for variable, words in _PROGRAMS:
        if (variable and not environ.get(variable)) or shutil.which(words[0]) is None:
            continue
        done = subprocess.run(words, input=text.encode(), stderr=subprocess.DEVNULL, check=False)
        if done.returncode == 0:
            return f"Copied by {words[0]}."
    encoded = base64.b64encode(text.encode()).decode()
    if len(encoded) > _MOST:
        raise UsageError(
            "this answer is too long for the terminal's clipboard.",
            fix="/save FILE writes it to a file, or install xclip or wl-copy",
        )
    sys.stdout.write(f"\x1b]52;c;{encoded}\x07")  # also through ssh, where the terminal allows it
    sys.stdout.flush()
    return "Copied by the terminal, if it allows that (OSC 52)."
