"""The chat templates of a checkpoint, by name, and the files they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbee_worker.checkpoint.reading import read_json, read_text
from rbee_worker.checkpoint.tokenizer_files import TEMPLATES

_JINJA, _JSON, _CONFIG = "chat_template.jinja", "chat_template.json", "tokenizer_config.json"


@dataclass(frozen=True)
class Templates:
    """by_name: "default" is the one for conversations. unread: files that are not used, and why."""

    by_name: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_templates(tokenizer_config: Mapping[str, Any], files: Mapping[str, Path]) -> Templates:
    """Read chat_template.jinja and the files in additional_chat_templates; or else
    tokenizer_config.json, which has a string or a list with names; or else chat_template.json,
    where processors keep theirs. Raises CheckpointError for a damaged file."""
    folder = {
        Path(name).stem: path for name, path in files.items() if name.startswith(f"{TEMPLATES}/")
    }
    if _JINJA in files:
        folder["default"] = files[_JINJA]
    if folder:
        found, origin = {name: read_text(path) for name, path in folder.items()}, _JINJA
    else:
        found, origin = _entries(tokenizer_config.get("chat_template")), _CONFIG
    if _JSON not in files:
        return Templates(found)
    processor = _entries(read_json(files[_JSON]).get("chat_template"))
    if not found:
        return Templates(processor)
    notes = []
    if processor and processor.get("default") != found.get("default"):
        notes.append(f"{_JSON} has another chat template than {origin}, which is used")
    return Templates(found, {_JSON: f"{origin} has the chat template"}, tuple(notes))


def _entries(entry: Any) -> dict[str, str]:
    """Templates by name, from JSON that has a string, or a list or object with names."""
    if isinstance(entry, str):
        return {"default": entry}
    if isinstance(entry, dict):
        return {k: v for k, v in entry.items() if isinstance(v, str)}
    named = entry if isinstance(entry, list) else ()
    return {
        item["name"]: item["template"]
        for item in named
        if isinstance(item, dict)
        and isinstance(item.get("name"), str)
        and isinstance(item.get("template"), str)
    }
