"""Reads config.json into one canonical form, whichever version of transformers wrote it.

Only the keys about rotary positions change. `rope_theta` is a float, `rope_scaling` an object whose
kind is in `rope_type` (never "default"), or None if the file says that nothing is scaled. Each is
present only if the file gives it and it is not null. transformers 5 writes one `rope_parameters`
object instead, and older files call the kind `type`. A `rope_parameters` with one object per layer
type stays as it is, like every other key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rbee_worker.checkpoint.names import DIALECTS, Dialect
from rbee_worker.checkpoint.reading import read_json
from rbee_worker.checkpoint.renamed import renamed_config
from rbee_worker.checkpoint.spellings import check_spellings
from rbee_worker.errors import CheckpointError, UnsupportedModel

_RENAMED = {"_sliding_window_pattern": "sliding_window_pattern"}  # transformers 5 adds the _

# A model_type under which configs of other architectures were published, and one that is missing;
# keys that only such an architecture has.
_SHARED = ("gpt2", None)
_BY_KEY = {"alt_mixer_layers": "based"}

# Kinds of scaling that were renamed; "none" and "default" mean that nothing is scaled.
_ROPE_TYPES = {"su": "longrope", "default": None, "none": None}


def read_config(path: Path) -> tuple[str, dict[str, Any], Dialect | None]:
    """(model_type, canonical config) of a config.json under today's names, and the dialect it was
    written in, if any.

    Raises CheckpointError if it is damaged, UnsupportedModel if it has no model_type.
    """
    return adopted(read_json(path), str(path))


def adopted(config: dict[str, Any], where: str) -> tuple[str, dict[str, Any], Dialect | None]:
    """`read_config` of what such a file holds."""
    check_spellings(config, where)
    found = config.get("model_type")
    if found in _SHARED:
        found = next((name for key, name in _BY_KEY.items() if key in config), found)
    if not isinstance(found, str) or not found:
        raise UnsupportedModel(
            f"{where}: names no model_type (architectures: {config.get('architectures')}).",
            fix="add the model_type of the architecture to config.json",
        )
    dialect = DIALECTS.get(found)
    if dialect is not None:
        config = renamed_config(dialect, config, where)
    return str(config["model_type"]), canonical(config, where), dialect


def canonical(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`config` with its rotary keys in the form that the module docstring describes."""
    out = {_RENAMED.get(key, key): _plain(value) for key, value in config.items()}
    given, scaling = out.get("rope_parameters"), out.get("rope_scaling")
    if given == {}:
        del out["rope_parameters"]
    elif isinstance(given, dict) and not any(isinstance(v, dict) for v in given.values()):
        kind = given.get("rope_type", given.get("type", "default"))
        scaling = {**out.pop("rope_parameters"), "rope_type": kind}
    if scaling is not None and not isinstance(scaling, dict):
        raise CheckpointError(
            f"{where}: rope_scaling is {str(scaling)[:40]!r}.", fix="it must be an object or null"
        )
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
        except (TypeError, ValueError, OverflowError):
            raise CheckpointError(f"{where}: rope_theta is not a number.", fix="fix it") from None
    return out


def _plain(value: Any) -> Any:
    """Decodes numbers that JSON lacks, which transformers 5 writes as {"__float__": "Infinity"}."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and set(value) == {"__float__"}:
        return {"Infinity": math.inf, "-Infinity": -math.inf}.get(str(value["__float__"]), math.nan)
    return value


def _rotary_share(config: dict[str, Any]) -> None:
    """Replace the number of columns that rotate with their fraction of a head, the newer form."""
    rotary, width = _count(config.get("rotary_dim")), _count(config.get("head_dim"))
    hidden, heads = _count(config.get("hidden_size")), _count(config.get("num_attention_heads"))
    share = rotary / width if width else rotary * heads / hidden if hidden and heads else 0
    if share:
        config["partial_rotary_factor"] = share
        del config["rotary_dim"]


def _count(value: Any) -> int:
    """A number of columns or heads that is safe to compute with; 0 for anything else."""
    return value if isinstance(value, int) and 0 < value < 1 << 62 else 0


def _scaling(scaling: dict[str, Any], where: str) -> dict[str, Any] | None:
    rest = {key: v for key, v in scaling.items() if key not in ("rope_type", "type")}
    kind = scaling.get("rope_type", scaling.get("type"))
    if not isinstance(kind, str):
        raise CheckpointError(
            f"{where}: rope_scaling has no rope_type.", fix="name it (linear, yarn, llama3, ...)"
        )
    kind = _ROPE_TYPES.get(kind, kind)
    return None if kind is None else {"rope_type": kind, **rest}
