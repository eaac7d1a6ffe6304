"""Gemma 4's config: its keys, the heads of each layer, and what is refused (`gemma4.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.models import parts
from rbee_worker.models.config import FULL, MixedConfig, positive
from rbee_worker.models.layer_plan import every


@dataclass(frozen=True, kw_only=True)
class Config(MixedConfig):
    """Gemma 4's own keys. The width of the wider heads is in `global_head_dim` or, in newer files,
    in `per_layer_config`, which has whatever differs between layers."""

    num_key_value_heads: int = 4
    head_dim: int = 256
    max_position_embeddings: int = 131072
    tie_word_embeddings: bool = True
    rms_norm_eps: float = 1e-6
    hidden_activation: str = "gelu_pytorch_tanh"
    attention_bias: bool = False
    use_bidirectional_attention: str | None = None
    sliding_window: int = 512
    rope_parameters: dict[str, Any] | None = None
    final_logit_softcapping: float | None = None
    global_head_dim: int = 512
    num_global_key_value_heads: int | None = None
    per_layer_config: dict[str, Any] | None = None
    attention_k_eq_v: bool = False
    num_kv_shared_layers: int = 0
    use_double_wide_mlp: bool = False
    vocab_size_per_layer_input: int = 262144
    hidden_size_per_layer_input: int = 256
    enable_moe_block: bool = False
    num_experts: int | None = None
    top_k_experts: int | None = None
    moe_intermediate_size: int | None = None

    @property
    def heads(self) -> Sequence[tuple[int, int]]:
        """The width of a head and the number of KV heads, for each layer. Raises CheckpointError,
        UnsupportedModel."""
        # transformers writes the layer numbers with leading zeros.
        own = {int(n): v for n, v in (self.per_layer_config or {}).items() if n.isdecimal()}
        return [self._heads(own.get(n, {}), n, kind) for n, kind in enumerate(self.kinds)]

    def _heads(self, own: Any, layer: int, kind: str) -> tuple[int, int]:
        found = self.width, self.kv_heads
        if self.per_layer_config is not None:
            if not isinstance(own, dict) or set(own) - {"head_dim", "num_key_value_heads"}:
                raise UnsupportedModel(
                    f"config: per_layer_config of layer {layer} is {str(own)[:60]}.",
                    fix="only head_dim and num_key_value_heads may differ.",
                )
            found = own.get("head_dim") or found[0], own.get("num_key_value_heads") or found[1]
        elif kind == FULL:
            few = self.num_global_key_value_heads if self.attention_k_eq_v else None
            found = self.global_head_dim, few or self.kv_heads
        good = all(isinstance(n, int) and n > 0 for n in found)
        if not good or self.num_attention_heads % found[1]:
            raise CheckpointError(
                f"config: heads of layer {layer} are {found}.", fix="fetch it again."
            )
        return found

    @property
    def pattern(self) -> Sequence[str]:
        return every(6, self.num_hidden_layers)

    @property
    def kinds(self) -> Sequence[str]:
        return [*super().kinds[:-1], FULL]  # the last layer always has full attention


def check(c: Config) -> None:
    """Raise CheckpointError or UnsupportedModel for a config that cannot be built."""
    parts.check(c)
    layers, shared = c.num_hidden_layers, c.num_kv_shared_layers
    if c.use_bidirectional_attention == "all" or c.attention_bias:
        raise UnsupportedModel(
            f"config: use_bidirectional_attention is {c.use_bidirectional_attention!r}, "
            f"attention_bias {c.attention_bias}.",
            fix="use a generative model of this family.",
        )
    if not 0 <= shared < layers:
        raise CheckpointError(
            f"config: num_kv_shared_layers is {shared}, but there are {layers} layers.",
            fix="download the checkpoint's config again.",
        )
    if c.partial_rotary_factor != 1.0:
        raise UnsupportedModel(
            f"config: partial_rotary_factor is {c.partial_rotary_factor} for all layers.",
            fix="put it into rope_parameters, for the layer types that it applies to.",
        )
    if c.enable_moe_block:
        positive("config", num_experts=c.num_experts or 0, top_k_experts=c.top_k_experts or 0)
        positive("config", moe_intermediate_size=c.moe_intermediate_size or 0)
