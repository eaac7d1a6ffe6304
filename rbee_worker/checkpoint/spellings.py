"""Two spellings of one setting in a config.json must mean the same, or the file is refused.

Keys were renamed over the years, and an edited or merged file may have both the old and the new
one. Silently preferring either would give wrong answers to whoever meant the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from rbee_worker.errors import CheckpointError

# Pairs of keys that mean the same in every architecture.
_PAIRS = (
    ("sliding_window_pattern", "_sliding_window_pattern"),
    ("num_experts", "num_local_experts"),
    ("num_experts", "n_routed_experts"),
    ("num_local_experts", "n_routed_experts"),
)
# Other names of the same kind of rotary scaling.
_ROPE_TYPES: Mapping[Any, Any] = MappingProxyType({"su": "longrope", "none": "default"})
_TWO_KINDS = ("gemma3_text", "gemma4_text")  # families that describe rotary positions by layer type
# Keys of the rotary description that older files have beside it.
_OUTSIDE = ("rope_theta", "partial_rotary_factor")


def check_spellings(config: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError if two keys that mean the same have different values."""
    refuse_different(config, _PAIRS, where)
    _check_rope(config, where)
    _check_original(config, where)
    _check_layer_types(config, where)
    rotary, share = _number(config, "rotary_dim"), _number(config, "partial_rotary_factor")
    width = _head_width(config)
    if rotary and share and width and abs(rotary - share * width) >= 1:
        raise _conflict(where, "rotary_dim", rotary, "partial_rotary_factor", share)


def refuse_different(
    config: Mapping[str, Any], pairs: Iterable[tuple[str, str]], where: str
) -> None:
    """Raise CheckpointError if both keys of a pair have values and these differ."""
    for first, second in pairs:
        one, other = config.get(first), config.get(second)
        if one is not None and other is not None and one != other:
            raise _conflict(where, first, one, second, other)


def _check_rope(config: Mapping[str, Any], where: str) -> None:
    old, new = config.get("rope_scaling"), config.get("rope_parameters")
    if not isinstance(old, dict) or not isinstance(new, dict) or not old or not new:
        return
    # Where each layer type has its own description, the old key described the full-attention
    # layers.
    full = new.get("full_attention")
    against = full if isinstance(full, dict) else new
    if _meaning(old) != _meaning(against):
        raise _conflict(where, "rope_scaling", old, "rope_parameters", against)
    for key in _OUTSIDE:
        one, other = (rope.get(key, config.get(key)) for rope in (old, against))
        if one != other:  # transformers would use the old description, and its value of this key
            raise _conflict(
                where, f"{key} of rope_scaling", one, f"{key} of rope_parameters", other
            )


def _check_layer_types(config: Mapping[str, Any], where: str) -> None:
    """In a family that describes rotary positions by layer type, refuse one description for all."""
    rope = config.get("rope_parameters")
    if config.get("model_type") not in _TWO_KINDS or not isinstance(rope, dict) or not rope:
        return
    if not any(isinstance(entry, dict) for entry in rope.values()):
        raise CheckpointError(
            f"{where}: rope_parameters is {str(rope)[:70]}, which no layer type of this family "
            "reads.",
            fix="give it one entry for full_attention and one for sliding_attention",
        )


def _check_original(config: Mapping[str, Any], where: str) -> None:
    """Check the context length before scaling, which some families keep beside the description."""
    key = "original_max_position_embeddings"
    for name in ("rope_scaling", "rope_parameters"):
        rope = config.get(name)
        one, other = config.get(key), rope.get(key) if isinstance(rope, dict) else None
        if one is not None and other is not None and one != other:
            raise _conflict(where, key, one, f"{key} of {name}", other)


def _meaning(rope: Mapping[str, Any]) -> dict[str, Any]:
    """What a rotary description says about scaling, without the keys that may stand beside it."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    rest = {k: v for k, v in rope.items() if k not in ("rope_type", "type", *_OUTSIDE)}
    known = _ROPE_TYPES.get(kind, kind) if isinstance(kind, str) else kind
    return {"rope_type": known, **{k: v for k, v in rest.items() if v is not None}}


def _head_width(config: Mapping[str, Any]) -> float:
    """The width of one head, 0 if the config does not say."""
    heads = _number(config, "num_attention_heads")
    return _number(config, "head_dim") or (_number(config, "hidden_size") / heads if heads else 0)


def _number(config: Mapping[str, Any], key: str) -> float:
    """The number at `key`, 0 if there is none."""
    value = config.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return 0


def _conflict(where: str, first: str, one: Any, second: str, other: Any) -> CheckpointError:
    return CheckpointError(
        f"{where}: {first} is {str(one)[:70]}, but {second} is {str(other)[:70]}: they mean the "
        "same.",
        fix="remove the one that is wrong",
    )
