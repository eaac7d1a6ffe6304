"""GGUF values that differ between layers, converted to Hugging Face's config keys.

Values for the layers without a sliding window, and lists with one value per layer, become entries
of `per_layer_config`. Feed-forward blocks that are twice as wide in the layers that share keys
become `use_double_wide_mlp`. Layers without KV heads get their kind in `layer_types`. Layers
that predict further tokens are not counted. A file that
says only that every nth layer has full attention gets the whole list as `layer_types`.
"""

from __future__ import annotations

from typing import Any

from rbee_worker.errors import UnsupportedModel

FULL = "full_attention"
MOST = 1 << 17  # layers: no file has more tensors
_ELSE = "use another model, or its safetensors directory"


def by_layers(config: dict[str, Any], where: str) -> None:
    """Replace `unwindowed` and per-layer lists in `config`. Raises UnsupportedModel."""
    if further := config.get("num_nextn_predict_layers") or 0:
        config["num_hidden_layers"] -= further
        config |= {k: v[:-further] for k, v in config.items() if k == "layer_types"}
    if isinstance(nth := config.get("layer_types"), int):
        count = range(1, config["num_hidden_layers"] + 1)
        config["layer_types"] = ["sliding_attention" if n % nth else FULL for n in count]
    types = config.get("layer_types") or []
    _kinds(config, where)
    own: dict[str, dict[str, Any]] = {}
    full = dict(config.pop("unwindowed", {}))
    for same in ("v_head_dim", "rotary_dim"):
        if full.get(same) == full.get("head_dim"):
            full.pop(same, None)
    if full:
        own = {str(n): dict(full) for n, kind in enumerate(types) if kind == FULL}
    _key_heads(config, own, types, where)
    _double(config, where)
    for entry in config.get("rope_parameters", {}).values():
        entry.setdefault("rope_type", "default")
    if own:
        config["per_layer_config"] = own


def _kinds(config: dict[str, Any], where: str) -> None:
    """Replace `key_heads`, the KV heads of each layer (or of all), by kind of those without any."""
    for kind, heads in config.pop("key_heads", {}).items():
        # Nobody makes a list as long as a damaged file may want it.
        layers = min(MOST, config["num_hidden_layers"])
        counts = heads if isinstance(heads, list) else [heads] * layers
        if isinstance(heads, list):
            _one_a_layer(heads, config, where, "attention.head_count_kv")
        some = {n for n in counts if n}
        if len(some) > 1:
            raise UnsupportedModel(
                f"{where}: attention.head_count_kv differs from layer to layer.", fix=_ELSE
            )
        config["num_key_value_heads"] = max(some, default=config["num_attention_heads"])
        config["layer_types"] = [FULL if n else kind for n in counts]
    for kind, widths in config.pop("inner_widths", {}).items():
        _alone(config, kind, widths, where)


def _alone(config: dict[str, Any], kind: str, widths: int | list[int], where: str) -> None:
    """Give `kind` to the layers that are feed-forward blocks and nothing else: those of a width."""
    types = config["layer_types"]
    if not isinstance(widths, list):
        widths = [widths] * len(types)
    _one_a_layer(widths, config, where, "feed_forward_length")
    some = {n for n in widths if n}
    if len(some) > 1:
        raise UnsupportedModel(
            f"{where}: feed_forward_length differs from layer to layer.", fix=_ELSE
        )
    both = [
        n for n, (t, width) in enumerate(zip(types, widths, strict=False)) if t == FULL and width
    ]
    if both:
        raise UnsupportedModel(
            f"{where}: layer {both[0]} has attention and a feed-forward block, as one that "
            "predicts further tokens, which is not supported.",
            fix="convert the model again with --no-mtp.",
        )
    config["intermediate_size"] = max(some, default=config["hidden_size"])
    config["layer_types"] = [kind if n else t for t, n in zip(types, widths, strict=False)]


def _key_heads(
    config: dict[str, Any], own: dict[str, dict[str, Any]], types: list[str], where: str
) -> None:
    """Split the per-layer counts of KV heads: the common count is that of the windowed layers; the
    layers that differ get entries in `own`."""
    heads = config.get("num_key_value_heads")
    if not isinstance(heads, list):
        return
    _one_a_layer(heads, config, where, "attention.head_count_kv")
    usual = next((n for n, t in zip(heads, types, strict=False) if t != FULL), heads[0])
    config["num_key_value_heads"] = usual
    for layer, count in enumerate(heads):
        if count != usual:
            own.setdefault(str(layer), {})["num_key_value_heads"] = count


def _double(config: dict[str, Any], where: str) -> None:
    """Replace per-layer feed-forward widths, which may be one width, and twice that in the layers
    that share keys."""
    widths = config.get("intermediate_size")
    if not isinstance(widths, list):
        return
    _one_a_layer(widths, config, where, "feed_forward_length")
    first = len(widths) - config.get("num_kv_shared_layers", 0)
    if any(n != widths[0] * (1 if i < first else 2) for i, n in enumerate(widths)):
        raise UnsupportedModel(
            f"{where}: feed_forward_length differs from layer to layer.", fix=_ELSE
        )
    config |= {"intermediate_size": widths[0], "use_double_wide_mlp": True}


def _one_a_layer(values: list[int], config: dict[str, Any], where: str, key: str) -> None:
    layers = config["num_hidden_layers"]
    if len(values) != layers:
        raise UnsupportedModel(
            f"{where}: {key} has {len(values)} values for {layers} layers.", fix=_ELSE
        )
