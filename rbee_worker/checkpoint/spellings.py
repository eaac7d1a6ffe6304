"""Two spellings of one thing in one config.json: of one meaning, or refused with both values.

Keys were renamed over the years, and a file that was edited or merged may have the old and the new
one. Taking either without a word would answer wrong for those who meant the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from rbee_worker.errors import CheckpointError

# Pairs of keys of which each has the other's meaning, in every architecture.
_PAIRS = (
    ("sliding_window_pattern", "_sliding_window_pattern"),
    ("num_experts", "num_local_experts"),
    ("num_experts", "n_routed_experts"),
    ("num_local_experts", "n_routed_experts"),
)
# Names of one kind of rotary scaling.
_ROPE_TYPES: Mapping[Any, Any] = MappingProxyType({"su": "longrope", "none": "default"})
_TWO_KINDS = ("gemma3_text", "gemma4_text")  # whose layers have rotary descriptions by kind
# Keys of a rotary description that stand outside of it in older files.
_OUTSIDE = ("rope_theta", "partial_rotary_factor")


def check_spellings(config: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError where two keys that mean the same say different things."""
    refuse_different(config, _PAIRS, where)
    _check_rope(config, where)
    _check_original(config, where)
    _check_layer_types(config, where)
    rotary, share = _number(config, "rotary_dim"), _number(config, "partial_rotary_factor")
    width = _head_width(config)
    if rotary and share and width and abs(rotary - share * width) >= 1:
        raise _both(where, "rotary_dim", rotary, "partial_rotary_factor", share)


def refuse_different(
    config: Mapping[str, Any], pairs: Iterable[tuple[str, str]], where: str
) -> None:
    """Raise CheckpointError where both keys of a pair have values, and not the same."""
    for first, second in pairs:
        one, other = config.get(first), config.get(second)
        if one is not None and other is not None and one != other:
            raise _both(where, first, one, second, other)


def _check_rope(config: Mapping[str, Any], where: str) -> None:
    old, new = config.get("rope_scaling"), config.get("rope_parameters")
    if not isinstance(old, dict) or not isinstance(new, dict) or not old or not new:
        return
    # Where each layer type has its own, the old key was that of layers that see everything.
    full = new.get("full_attention")
    against = full if isinstance(full, dict) else new
    if _meaning(old) != _meaning(against):
        raise _both(where, "rope_scaling", old, "rope_parameters", against)
    for key in _OUTSIDE:
        one, other = (rope.get(key, config.get(key)) for rope in (old, against))
        if one != other:  # transformers takes the old description, and this with it
            raise _both(where, f"{key} of rope_scaling", one, f"{key} of rope_parameters", other)


def _check_layer_types(config: Mapping[str, Any], where: str) -> None:
    """Where layers of two kinds rotate differently, one description for all says nothing."""
    rope = config.get("rope_parameters")
    if config.get("model_type") not in _TWO_KINDS or not isinstance(rope, dict) or not rope:
        return
    if not any(isinstance(entry, dict) for entry in rope.values()):
        raise CheckpointError(
            f"{where}: rope_parameters is {str(rope)[:70]}, which no kind of layers reads.",
            fix="give it one entry for full_attention and one for sliding_attention",
        )


def _check_original(config: Mapping[str, Any], where: str) -> None:
    """The length before stretching, which some families have outside of the description."""
    key = "original_max_position_embeddings"
    for name in ("rope_scaling", "rope_parameters"):
        rope = config.get(name)
        one, other = config.get(key), rope.get(key) if isinstance(rope, dict) else None
        if one is not None and other is not None and one != other:
            raise _both(where, key, one, f"{key} of {name}", other)


def _meaning(rope: Mapping[str, Any]) -> dict[str, Any]:
    """What a rotary description scales, without what may stand outside of it."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    rest = {k: v for k, v in rope.items() if k not in ("rope_type", "type", *_OUTSIDE)}
    known = _ROPE_TYPES.get(kind, kind) if isinstance(kind, str) else kind
    return {"rope_type": known, **{k: v for k, v in rest.items() if v is not None}}


def _head_width(config: Mapping[str, Any]) -> float:
    """Columns of one head, 0 where the config does not say."""
    heads = _number(config, "num_attention_heads")
    return _number(config, "head_dim") or (_number(config, "hidden_size") / heads if heads else 0)


def _number(config: Mapping[str, Any], key: str) -> float:
    """A number of the config, 0 where it is none."""
    value = config.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return 0


def _both(where: str, first: str, one: Any, second: str, other: Any) -> CheckpointError:
    return CheckpointError(
        f"{where}: {first} is {str(one)[:70]}, but {second} is {str(other)[:70]}: they mean the "
        "same.",
        fix="remove the one that is wrong",
    )
