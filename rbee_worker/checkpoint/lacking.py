"""What a snapshot of a hub model lacks, as far as its own files show.

Programs fetch the files that they need: transformers leaves out those of sentence-transformers,
which say how vectors are made. A snapshot with modules.json lists what it must have. One without is
in doubt if its model makes vectors or scores: the hub's cache notes files that were asked for and
do not exist (`.no_exist/<commit>/NAME`), and only such a note says that there are none.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from rbee_worker.checkpoint.weight_files import INDEX, SINGLE

MODULES = "modules.json"
UNKNOWN = (
    f"the model was fetched without {MODULES}, and nothing shows that it has none: how its vectors "
    "or scores are made is not known (rbee-worker pull completes it)"
)
_STEPS = ("Pooling", "Dense", "LogitScore")  # what has a config of its own
# Ends of classes that draw no tokens.
_VECTORS = ("Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification")
_TEXT = "LMHeadModel"
_MAX_HEADER = 16 << 20


def listed(folder: Path) -> list[str]:
    """The files that the folder's modules.json lists and that are not there."""
    steps = _json(folder / MODULES)
    found = []
    for step in steps if isinstance(steps, list) else ():
        kind = str(step.get("type", "")).rpartition(".")[2] if isinstance(step, dict) else ""
        name = f"{step['path']}/config.json" if kind in _STEPS and step.get("path") else ""
        if name and ".." not in name and not (folder / name).is_file():
            found.append(name)
    return found


def in_doubt(folder: Path) -> bool:
    """Whether a folder is a snapshot of a model for vectors or scores that may have a modules.json
    which was not fetched."""
    if folder.parent.name != "snapshots" or (folder / MODULES).is_file() or _note(folder).is_file():
        return False
    config = _json(folder / "config.json")
    given = config.get("architectures") if isinstance(config, dict) else None
    named = [str(name) for name in given] if isinstance(given, list) else []
    if any(name.endswith(_VECTORS) and not name.endswith(_TEXT) for name in named):
        return True
    return any(name.endswith("ForCausalLM") for name in named) and _headless(folder)


def note_absence(folder: Path) -> None:
    """Note, as huggingface_hub does, that the model of a snapshot has no modules.json."""
    note = _note(folder)
    if folder.parent.name == "snapshots" and not note.is_file():
        with suppress(OSError):  # it is asked for again then
            note.parent.mkdir(parents=True, exist_ok=True)
            note.touch()


def _note(folder: Path) -> Path:
    return folder.parent.parent / ".no_exist" / folder.name / MODULES


def _headless(folder: Path) -> bool:
    """Whether the weights were saved from a decoder without its head, as models for vectors are."""
    names = _names(folder)
    return "embed_tokens.weight" in names and "lm_head.weight" not in names


def _names(folder: Path) -> Collection[str]:
    """The names of the tensors in a folder; () if they cannot be read here."""
    index = _json(folder / INDEX)
    if isinstance(index, dict):
        weights = index.get("weight_map")
        return weights if isinstance(weights, dict) else ()
    try:
        with (folder / SINGLE).open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size <= _MAX_HEADER else {}
    except (OSError, ValueError, RecursionError):
        return ()
    return header if isinstance(header, dict) else ()


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
