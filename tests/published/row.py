"""A published checkpoint: its config.json, and how many parameters it is said to have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """name: on the Hugging Face hub. config: what its config.json says that is not generation's.

    billions: of parameters, to the three digits that its page gives or that follow from its paper's
    table of sizes; parameters: the exact count, where one is known. None: nobody states it.
    """

    name: str
    config: dict[str, Any]
    billions: float | None = None
    parameters: int | None = None

    @property
    def model_type(self) -> str:
        """Hugging Face's."""
        return str(self.config["model_type"])

    @property
    def stated(self) -> bool:
        """Does anybody say how many parameters it has?"""
        return self.billions is not None or self.parameters is not None


def decoder(
    model_type: str,
    vocab: int,
    dim: int,
    inner: int,
    layers: int,
    heads: int,
    kv: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The keys that most configs have, and `more`."""
    keys = {
        "model_type": model_type,
        "vocab_size": vocab,
        "hidden_size": dim,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    return keys | ({} if kv is None else {"num_key_value_heads": kv}) | more


UNTIED: dict[str, Any] = {"tie_word_embeddings": False}
# Keys that change no number of a forward pass, as published files have them beside those that do.
INERT: dict[str, Any] = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0",
    "use_cache": True,
}
