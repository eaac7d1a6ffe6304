"""config.json in one canonical form, whichever version wrote it.

Rotary positions: `rope_theta` (float) and `rope_scaling` (None where the file says that nothing is
scaled, or an object whose kind is `rope_type`, never "default"), each when the file gives one; null
gives none. transformers 5 writes one `rope_parameters` instead, older files say `type` for
`rope_type`. Where `rope_parameters` has one object for each
layer type it stays as it is, and so does every other key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rbee_worker.checkpoint.names import DIALECTS, Dialect
from rbee_worker.checkpoint.renamed import renamed_config
from rbee_worker.errors import CheckpointError, UnsupportedModel

MAX_JSON_BYTES = 4 << 20

_RENAMED = {"_sliding_window_pattern": "sliding_window_pattern"}  # transformers 5 writes it

# Kinds that were renamed; "none" and "default" mean that nothing is scaled.
_ROPE_TYPES = {"su": "longrope", "default": None, "none": None}


def read_text(path: Path) -> str:
    """A small UTF-8 file. Raises CheckpointError when it is anything else."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES >> 20} MiB")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as text ({error}).", fix="fetch the file again"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file. Raises CheckpointError when it is anything else."""
    try:
        value = json.loads(read_text(path))
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as JSON ({error}).", fix="fetch the file again"
        ) from None
    return value


def read_config(path: Path) -> tuple[str, dict[str, Any], Dialect | None]:
    """(model_type, canonical config) of a config.json as they are called today, and the dialect
    that it was written in, if any.

    Raises CheckpointError when it is damaged, UnsupportedModel when it names no model_type.
    """
    config = read_json(path)
    found = config.get("model_type")
    if not isinstance(found, str) or not found:
        raise UnsupportedModel(
            f"{path}: names no model_type (architectures: {config.get('architectures')}).",
            fix="add the model_type of the architecture to config.json",
        )
    dialect = DIALECTS.get(found)
    if dialect is not None:
        config = renamed_config(dialect, config, str(path))
    return str(config["model_type"]), canonical(config, str(path)), dialect


def canonical(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`config` with rotary keys in the form that the module describes."""
    out = {_RENAMED.get(key, key): value for key, value in config.items()}
    given, scaling = out.get("rope_parameters"), out.get("rope_scaling")
    if scaling is not None and not isinstance(scaling, dict):
        raise CheckpointError(
            f"{where}: rope_scaling is {str(scaling)[:40]!r}.", fix="it must be an object or null"
        )
    typed = isinstance(given, dict) and any(isinstance(v, dict) for v in given.values())
    if isinstance(given, dict) and scaling and not typed and _differ(given, scaling):
        raise CheckpointError(
            f"{where}: rope_scaling is {str(scaling)[:60]} and rope_parameters {str(given)[:60]}.",
            fix="remove the one that is not meant: they are two names of one thing",
        )
    if isinstance(given, dict) and not typed:
        scaling = {"rope_type": "default", **out.pop("rope_parameters")}
    scaling = dict(scaling or {})
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in scaling:
            out[key] = scaling.pop(key)
    _rotary_share(out)
    out.pop("rope_scaling", None)
    if scaling:
        out["rope_scaling"] = _scaling(scaling, where)
    if "rope_theta" in out and out["rope_theta"] is not None:
        try:
            out["rope_theta"] = float(out["rope_theta"])
        except (TypeError, ValueError):
            raise CheckpointError(f"{where}: rope_theta is not a number.", fix="fix it") from None
    return out


def _differ(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Does the new spelling not say what the old one says? It may say more: theta."""
    renamed = {"rope_type" if key == "type" else key: value for key, value in old.items()}
    return any(new.get(key) != value for key, value in renamed.items())


def _rotary_share(config: dict[str, Any]) -> None:
    """Columns of a head that rotate, as the share of the head that newer files say."""
    rotary, width = config.get("rotary_dim"), config.get("head_dim")
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if width is None and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        width = hidden / heads
    if isinstance(rotary, int) and isinstance(width, int | float) and rotary > 0 < width:
        config["partial_rotary_factor"] = config.pop("rotary_dim") / width


def _scaling(scaling: dict[str, Any], where: str) -> dict[str, Any] | None:
    rest = {key: v for key, v in scaling.items() if key not in ("rope_type", "type")}
    kind = scaling.get("rope_type", scaling.get("type"))
    if not isinstance(kind, str):
        raise CheckpointError(
            f"{where}: rope_scaling has no rope_type.", fix="name it (linear, yarn, llama3, ...)"
        )
    kind = _ROPE_TYPES.get(kind, kind)
    return None if kind is None else {"rope_type": kind, **rest}
