"""The page's foreign libraries: fetches them from npm's registry into the package (`make vendor`).

    python -m tests.page.vendor [--accept]

`vendor/versions.json` names every package with its version and licence, and every file with its
SHA-256. A file that does not have its hash is refused, and nothing is written; `--accept` writes
the new hashes, for a new version that somebody has looked at.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).parents[2] / "rbee_worker" / "server" / "page" / "vendor"
VERSIONS = VENDOR / "versions.json"


def described() -> dict[str, Any]:
    """`versions.json`."""
    found: dict[str, Any] = json.loads(VERSIONS.read_text())
    return found


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetched(package: dict[str, Any], folder: Path) -> dict[str, bytes]:
    """The package's files, by their names here. Raises CalledProcessError if npm has none."""
    name = f"{package['name']}@{package['version']}"
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), name]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    files = {}
    with tarfile.open(folder / said.strip().splitlines()[-1]) as archive:
        for row in package["files"]:
            member = archive.extractfile(f"package/{row['from']}")
            assert member is not None, row["from"]
            files[row["to"]] = member.read() + row.get("append", "").encode()
    return files


def main(accept: bool) -> int:
    """Fetches everything; returns the exit status."""
    versions, wrong = described(), []
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for package in versions["packages"]:
            found = fetched(package, Path(folder))
            for row in package["files"]:
                digest = sha256(found[row["to"]])
                if digest != row["sha256"]:
                    wrong.append(f"{package['name']}: {row['from']} has the hash {digest}")
                    row["sha256"] = digest
            files |= found
    if wrong and not accept:
        sys.stderr.write("\n".join([*wrong, "Nothing was written.", ""]))
        return 1
    for name, content in files.items():
        path = VENDOR / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    VERSIONS.write_text(json.dumps(versions, indent=1) + "\n")
    sys.stdout.write(f"{len(files)} files, {sum(map(len, files.values())):,} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main("--accept" in sys.argv[1:]))
