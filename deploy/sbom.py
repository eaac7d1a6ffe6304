"""Completes a bill of materials, and checks it: `python deploy/sbom.py FILE` (part of `make sbom`).

What is installed from an index is in the file already. The page's libraries are not: they lie in
this repository, as files of npm packages with their hashes. The result must follow CycloneDX's
schema. Runs where cyclonedx-bom is installed; exit code 1 with one line where the file is not as it
must be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

VENDORED = Path(__file__).parents[1] / "rbee_worker/server/page/vendor/versions.json"


def vendored() -> list[dict[str, Any]]:
    """The page's libraries as CycloneDX components."""
    found = []
    for package in json.loads(VENDORED.read_text())["packages"]:
        name, version = package["name"], package["version"]
        group, _, short = name.rpartition("/")
        purl = f"pkg:npm/{name.replace('@', '%40')}@{version}"
        files = [
            {
                "type": "file",
                "bom-ref": f"{purl}#{file['to']}",
                "name": file["to"],
                "hashes": [{"alg": "SHA-256", "content": file["sha256"]}],
            }
            for file in package["files"]
        ]
        found.append(
            {
                "type": "library",
                "bom-ref": purl,
                **({"group": group} if group else {}),
                "name": short,
                "version": version,
                "description": package["does"],
                "licenses": [{"license": {"id": package["licence"]}}],
                "purl": purl,
                "components": files,
            }
        )
    return found


def completed(bill: dict[str, Any]) -> dict[str, Any]:
    """The bill with the page's libraries, on which the worker depends."""
    more = vendored()
    refs = {component["bom-ref"] for component in more}
    own = bill["metadata"]["component"]["bom-ref"]
    depends = [
        {**entry, "dependsOn": sorted({*entry.get("dependsOn", ()), *refs})}
        if entry["ref"] == own
        else entry
        for entry in bill["dependencies"]
    ]
    others = [each for each in bill["components"] if each["bom-ref"] not in refs]
    return {
        **bill,
        "components": [*others, *more],
        "dependencies": [
            *(entry for entry in depends if entry["ref"] not in refs),
            *({"ref": ref} for ref in sorted(refs)),
        ],
    }


def main(path: Path) -> str:
    """Complete the file; returns what is wrong with it, "" if nothing."""
    # Not among what the worker or its tests need: `make sbom` installs it.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    bill = completed(json.loads(path.read_text()))
    text = json.dumps(bill, indent=2, ensure_ascii=False) + "\n"
    wrong = JsonStrictValidator(SchemaVersion.from_version(bill["specVersion"])).validate_str(text)
    if wrong is not None:
        return f"{path} does not follow CycloneDX {bill['specVersion']}: {wrong}"
    path.write_text(text)
    told = f"{path}: CycloneDX {bill['specVersion']}, {len(bill['components'])} components, valid\n"
    sys.stdout.write(told)
    return ""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) or None)
