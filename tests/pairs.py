"""Tiny models of an encoder and a decoder with random weights: transformers', and their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

VOCAB = 211
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 3,
    "num_heads": 3,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
}


@dataclass(frozen=True)
class Pair:
    """A row: its name, what makes transformers' model of it, and its `model_type`. own_head: the
    head is not the embedding."""

    id: str
    make: Callable[[], PreTrainedModel]
    type: str = "t5"
    own_head: bool = False


def _t5(**values: Any) -> Callable[[], PreTrainedModel]:
    return lambda: T5ForConditionalGeneration(T5Config(**SHAPE, **values))


ROWS = (
    Pair("t5", _t5()),
    # T5 1.1 and Flan: gates, a head of its own; here also fewer layers, other buckets
    Pair(
        "flan",
        _t5(
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            num_decoder_layers=2,
            relative_attention_num_buckets=20,
        ),
        own_head=True,
    ),
    Pair("near", _t5(feed_forward_proj="gated-silu", relative_attention_max_distance=40)),
    Pair("mt5", lambda: MT5ForConditionalGeneration(MT5Config(**SHAPE)), "mt5", own_head=True),
    Pair("umt5", lambda: UMT5ForConditionalGeneration(UMT5Config(**SHAPE)), "umt5"),
)
BY_ID = {row.id: row for row in ROWS}


@cache
def oracle(name: str) -> PreTrainedModel:
    """transformers' model, seeded; norms are random too, and blocks far from linear."""
    row = BY_ID[name]
    torch.manual_seed(11)
    model = row.make()
    model.train(False)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.copy_(1.0 + 0.3 * torch.randn_like(weight))
            elif "shared" not in key:
                weight.mul_(2.0)
        if row.own_head:
            model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, SHAPE["d_model"]) * 0.2)
    return model


def logprobs(name: str, source: list[int], answer: list[int]) -> np.ndarray[Any, Any]:
    """Log-probabilities float64 [len(answer), vocab] of each token of an answer, before it is
    known."""
    with torch.inference_mode():
        given = torch.tensor([[SHAPE["decoder_start_token_id"], *answer[:-1]]])
        logits = oracle(name)(input_ids=torch.tensor([source]), decoder_input_ids=given).logits[0]
    found: np.ndarray[Any, Any] = logits.double().log_softmax(-1).numpy()
    return found


def write(name: str, folder: Path) -> Path:
    """Hugging Face's files. transformers 5 saves no head of its own; the published files have it,
    and a config that says so."""
    model = oracle(name)
    model.save_pretrained(folder)
    if BY_ID[name].own_head:
        at = folder / "model.safetensors"
        tensors = load_file(at) | {"lm_head.weight": model.lm_head.weight.detach().contiguous()}
        save_file(tensors, at, metadata={"format": "pt"})
        at = folder / "config.json"
        at.write_text(json.dumps(json.loads(at.read_text()) | {"tie_word_embeddings": False}))
    return folder


def write_gguf(name: str, file: Path) -> Path:
    """The file that llama.cpp's converter would write."""
    model = oracle(name)
    c = model.config
    w = gguf.GGUFWriter(file, "t5")
    w.add_context_length(512)
    w.add_vocab_size(c.vocab_size)
    w.add_embedding_length(c.d_model)
    w.add_feed_forward_length(c.d_ff)
    w.add_block_count(c.num_layers)
    w.add_decoder_block_count(c.num_decoder_layers)
    w.add_head_count(c.num_heads)
    w.add_key_length(c.d_kv)
    w.add_value_length(c.d_kv)
    w.add_layer_norm_eps(c.layer_norm_epsilon)
    w.add_relative_attn_buckets_count(c.relative_attention_num_buckets)
    w.add_layer_norm_rms_eps(c.layer_norm_epsilon)
    w.add_decoder_start_token_id(c.decoder_start_token_id)
    w.add_file_type(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5, c.num_layers)
    skipped = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    for key, tensor in model.state_dict().items():
        if key in skipped or (key == "lm_head.weight" and not BY_ID[name].own_head):
            continue
        found = names.get_name(key, try_suffixes=(".weight",))
        assert found is not None, key
        w.add_tensor(found, tensor.detach().numpy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return file
