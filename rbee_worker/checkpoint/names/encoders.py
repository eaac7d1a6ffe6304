"""Encoders: ModernBERT; BERT, which is RoBERTa's name too: converters let its table of positions
begin at the first token; and Gemma 3 whose tokens see later ones.

A classifier's `cls` is RoBERTa's or ModernBERT's dense map. Of BERT's, converters leave out the
pooler, which is its dense map: such a file is refused when the model is built.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from rbee_worker.checkpoint.names import gemma
from rbee_worker.checkpoint.names.architecture import Architecture, Key, Row
from rbee_worker.checkpoint.names.rows import DECODER_KEYS, TOKEN_KEYS, constants, rows

_KEYS = (
    *DECODER_KEYS,
    *TOKEN_KEYS,
    Key("attention.head_count", "num_attention_heads", "count", required=True),
    Key("classifier.output_labels", "classifier_labels", "labels"),
)
# What is derived for decoders, and has no meaning here.
_UNREAD = ("num_key_value_heads", "head_dim", "partial_rotary_factor", "bos_token_id")
_INERT = ("attention.causal", "attention.head_count_kv", "rope.scaling.type")

_NO_DENSE = (
    "the file has no dense maps (dense_2, dense_3): if the model's other files have some, its "
    "vectors are not theirs; llama.cpp's converter takes them with "
    "--sentence-transformers-dense-modules"
)
_GEMMA = gemma.ARCHITECTURES["gemma3"]


def _layer(gguf: str, hf: str, *kinds: str) -> tuple[Row, ...]:
    return rows(f"blk.{{}}.{gguf}", hf, *kinds)


def _bert(gguf: str, hf: str) -> tuple[Row, ...]:
    return _layer(gguf, f"encoder.layer.{{}}.{hf}")


def _modern(gguf: str, hf: str) -> tuple[Row, ...]:
    return _layer(gguf, f"layers.{{}}.{hf}", "weight")


ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(
        model_type="bert",
        keys=(
            *_KEYS,
            Key("attention.layer_norm_epsilon", "layer_norm_eps", "number", required=True),
            Key("tokenizer.ggml.token_type_count", "type_vocab_size", "count", whole=True),
        ),
        tensors=(
            *rows("token_embd", "embeddings.word_embeddings", "weight"),
            *rows("position_embd", "embeddings.position_embeddings", "weight"),
            *rows("token_types", "embeddings.token_type_embeddings", "weight"),
            *rows("token_embd_norm", "embeddings.LayerNorm"),
            *_bert("attn_q", "attention.self.query"),
            *_bert("attn_k", "attention.self.key"),
            *_bert("attn_v", "attention.self.value"),
            *_bert("attn_output", "attention.output.dense"),
            *_bert("attn_output_norm", "attention.output.LayerNorm"),
            *_bert("ffn_up", "intermediate.dense"),
            *_bert("ffn_down", "output.dense"),
            *_bert("layer_output_norm", "output.LayerNorm"),
            *rows("cls", "classifier.dense"),
            *rows("cls.output", "classifier.out_proj"),
        ),
        constants=constants(
            hidden_act="gelu",
            tie_word_embeddings=True,
            is_decoder=False,
            add_cross_attention=False,
        ),
        absent=MappingProxyType({"without_types": "token_types.weight"}),
        rows={"type_vocab_size": "token_types.weight"},
        unread=_UNREAD,
        inert=_INERT,
    ),
    "modern-bert": Architecture(
        model_type="modernbert",
        keys=(
            *_KEYS,
            Key("attention.layer_norm_epsilon", "norm_eps", "number", required=True),
            Key("attention.sliding_window", "local_attention", "count", required=True),
            Key(
                "attention.sliding_window_pattern",
                "global_attn_every_n_layers",
                "count",
                default=3,
            ),
            Key("rope.freq_base", "global_rope_theta", "number", default=10000.0),
            Key("rope.freq_base_swa", "local_rope_theta", "number", default=10000.0),
            Key("hidden_activation", "hidden_activation", "text", default="gelu"),
            Key("classifier.pooling_type", "classifier_pooling", "pooling", default="mean"),
        ),
        tensors=(
            *rows("token_embd", "embeddings.tok_embeddings", "weight"),
            *rows("token_embd_norm", "embeddings.norm", "weight"),
            *rows("output_norm", "final_norm", "weight"),
            *_modern("attn_norm", "attn_norm"),
            *_modern("attn_qkv", "attn.Wqkv"),
            *_modern("attn_output", "attn.Wo"),
            *_modern("ffn_norm", "mlp_norm"),
            *_modern("ffn_up", "mlp.Wi"),
            *_modern("ffn_down", "mlp.Wo"),
            *rows("cls", "head.dense", "weight"),
            *rows("cls.norm", "head.norm", "weight"),
            *rows("cls.output", "classifier"),
        ),
        constants=constants(
            hidden_act="gelu",
            tie_word_embeddings=True,
            norm_bias=False,
            attention_bias=False,
            mlp_bias=False,
            classifier_bias=False,
            classifier_activation="gelu",
        ),
        unread=_UNREAD,
        inert=(*_INERT, "attention.layer_norm_rms_epsilon"),
    ),
    # The sizes of its dense maps are those of their tensors (`checkpoint/dense.py`).
    "gemma-embedding": replace(
        _GEMMA,
        constants=MappingProxyType({**_GEMMA.constants, "use_bidirectional_attention": True}),
        by_layers=MappingProxyType({}),
        inert=(
            "attention.causal",
            *(f"{name}_feat_{end}" for name in ("dense_2", "dense_3") for end in ("in", "out")),
        ),
        usual=MappingProxyType({"dense_2.weight": _NO_DENSE}),
    ),
}
