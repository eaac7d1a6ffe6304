"""Which operations have kernels; `inspect` reads it without loading torch."""

NATIVE = frozenset(
    (
        *("matrix", "stack", "vector", "floats", "embed", "add_positions", "logits", "linear"),
        *("add_segments",),
        *("heads_linear", "split", "concat"),
        *("rms_norm", "layer_norm", "add_rms_norm"),
        *("add", "multiply", "scale", "clip", "act", "gated", "softcap"),
        *("route", "experts"),
        *("scale_by_position", "rope", "attend", "keep", "with_features"),
        *("linear_scan", "causal_conv", "selective_scan", "ssd", "rg_lru"),
        *("gated_delta", "adapted"),
        *("previous", "lerp", "wkv", "wkv_delta", "taylor"),
    )
)
