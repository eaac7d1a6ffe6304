"""The page's JavaScript has the types that its comments say: TypeScript checks it, strictly."""

from __future__ import annotations

import subprocess

import pytest

from tests.npm import installed
from tests.page.vendor import VENDOR

TYPESCRIPT = "typescript@5.9.3"


@pytest.mark.slow
def test_types_hold() -> None:
    flags = "--allowJs --checkJs --strict --noEmit --skipLibCheck --target es2022 --module es2022"
    libraries = "es2023,dom,dom.iterable,dom.asynciterable"
    more = f"--moduleResolution bundler --lib {libraries}"
    files = sorted(file.name for file in VENDOR.parent.glob("*.js"))
    compiler = str(installed(TYPESCRIPT) / "bin" / "tsc")
    command = ["node", compiler, *flags.split(), *more.split(), *files]
    done = subprocess.run(command, cwd=VENDOR.parent, capture_output=True, text=True, timeout=120)
    faults = [line for line in done.stdout.splitlines() if not line.startswith(("vendor/", " "))]
    assert faults == []
    assert done.stderr == ""
