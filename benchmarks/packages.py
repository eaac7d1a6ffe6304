"""What `make run` downloads before the model: `make size`.

    python -m benchmarks.packages BUILDERS..

pip fetches the wheels of this system and Python, in the versions of constraints.txt, into a folder
that is then removed. Prints one JSON object with their sizes; exit status 1 above the budget.
BUILDERS: packages that are installed beside those of pyproject.toml.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUDGET = 120e6  # bytes


def sizes(wanted: list[str]) -> dict[str, int]:
    """Bytes of each wheel that pip needs for `wanted`. Raises CalledProcessError."""
    command = [sys.executable, "-m", "pip", "download", "-qq", "--only-binary", ":all:"]
    command += ["--constraint", str(ROOT / "constraints.txt"), "--disable-pip-version-check"]
    command += shlex.split(os.environ.get("RBEE_PIP_ARGS", ""))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, "--dest", folder, *wanted], check=True, stdout=sys.stderr)
        return {wheel.name: wheel.stat().st_size for wheel in Path(folder).iterdir()}


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = sizes([*project["dependencies"], *sys.argv[1:]])
    total = sum(found.values())
    largest = dict(sorted(found.items(), key=lambda item: -item[1])[:5])
    result = {"bytes": total, "budget": int(BUDGET), "wheels": len(found), "largest": largest}
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    sys.exit(total > BUDGET)


if __name__ == "__main__":
    main()
