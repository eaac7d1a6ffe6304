"""Which operations have kernels here: what `inspect` says without loading torch."""

NATIVE = frozenset(
    (
        *("matrix", "vector", "embed", "logits", "linear", "split"),
        *("rms_norm", "layer_norm", "add_rms_norm"),
        *("add", "scale", "act", "gated", "softcap"),
        *("rope", "attend"),
    )
)
