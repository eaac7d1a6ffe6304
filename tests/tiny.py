"""A complete llama of 30 thousand numbers with a byte-level vocabulary, in both file formats.

For tests that need a whole model on disk and start the real program; written with numpy and the
formats' own packages, none of our code.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from tests import blocks

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BOS = "<|endoftext|>"  # opens every plain prompt; the template does not write it
MERGES = ("t h", "th e")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DIM, HEADS, KV_HEADS, FFN, LAYERS, CONTEXT = 32, 4, 2, 48, 2, 256


def vocabulary() -> list[str]:
    """Tokens by id: the 256 bytes as byte-level BPE writes them, the merges, the special ones."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}
    return [letters[b] for b in range(256)] + [m.replace(" ", "") for m in MERGES] + [*SPECIAL]


VOCAB = len(vocabulary())


def tensors(seed: int = 0, layers: int = LAYERS, vocab: int = VOCAB) -> dict[str, np.ndarray]:
    """Random weights by their Hugging Face names."""
    rng = np.random.default_rng(seed)
    head_dim = DIM // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, DIM),
        "model.norm.weight": (DIM,),
        "lm_head.weight": (vocab, DIM),
    }
    for n in range(layers):
        p = f"model.layers.{n}."
        shapes |= {
            p + "input_layernorm.weight": (DIM,),
            p + "post_attention_layernorm.weight": (DIM,),
            p + "self_attn.q_proj.weight": (DIM, DIM),
            p + "self_attn.k_proj.weight": (KV_HEADS * head_dim, DIM),
            p + "self_attn.v_proj.weight": (KV_HEADS * head_dim, DIM),
            p + "self_attn.o_proj.weight": (DIM, DIM),
            p + "mlp.gate_proj.weight": (FFN, DIM),
            p + "mlp.up_proj.weight": (FFN, DIM),
            p + "mlp.down_proj.weight": (DIM, FFN),
        }
    return {
        name: rng.normal(1.0 if len(shape) == 1 else 0.0, 0.3, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_safetensors(
    folder: Path,
    *,
    without: Collection[str] = (),
    chat: bool = True,
    layers: int = LAYERS,
    vocab: int = VOCAB,
    **config: Any,
) -> Path:
    """A directory as the hub has it. without: names of tensors, or of files, to leave out."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: n for n, token in enumerate(vocabulary())}
    files: dict[str, Any] = {
        "config.json": {
            "model_type": "llama",
            "vocab_size": vocab,
            "hidden_size": DIM,
            "intermediate_size": FFN,
            "num_hidden_layers": layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "eos_token_id": ids["<|im_end|>"],
            **config,
        },
        "tokenizer_config.json": {
            "bos_token": BOS,
            **({"chat_template": TEMPLATE} if chat else {}),
        },
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": [
                {
                    "id": ids[t],
                    "content": t,
                    "special": True,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                }
                for t in SPECIAL
            ],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": BOS, "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"Sequence": {"id": "B", "type_id": 1}},
                ],
                "special_tokens": {BOS: {"id": BOS, "ids": [ids[BOS]], "tokens": [BOS]}},
            },
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
            },
            "model": {
                "type": "BPE",
                "vocab": {t: n for t, n in ids.items() if t not in SPECIAL},
                "merges": [m.split() for m in MERGES],
            },
        },
    }
    for name, content in files.items():
        if name not in without:
            (folder / name).write_text(json.dumps(content))
    kept = {
        name: t for name, t in tensors(layers=layers, vocab=vocab).items() if name not in without
    }
    save_file(kept, folder / "model.safetensors")
    return folder


def write_gguf(
    path: Path,
    *,
    arch: str = "llama",
    without: Collection[str] = (),
    tokenizer: bool = True,
    pads: int = 0,
) -> Path:
    """The same model as llama.cpp's converter writes it. without: GGUF names of tensors. pads: rows
    without a token, which the converter gives names."""
    w = gguf.GGUFWriter(path, arch)
    _add_metadata(w, DIM, FFN, tokenizer, pads)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, value in tensors(vocab=VOCAB + pads).items():
        stem, _, suffix = name.rpartition(".")
        found = f"{names.get_name(stem)}.{suffix}"
        heads = HEADS if stem.endswith("q_proj") else KV_HEADS if stem.endswith("k_proj") else 0
        if found not in without:
            w.add_tensor(found, _paired(value, heads) if heads else value)
    return _written(w, path)


def write_packed_gguf(path: Path, formats: Sequence[str], dim: int = 256) -> Path:
    """A llama of the same shape but for `dim` and twice that: its matrices are random blocks, in
    `formats` by turns, its norms F32."""
    w, rng, turns = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0), cycle(formats)
    _add_metadata(w, dim, 2 * dim, True)
    kv = dim // HEADS * KV_HEADS
    shapes = {"token_embd": (VOCAB, dim), "output": (VOCAB, dim)}
    for n in range(LAYERS):
        shapes |= {
            f"blk.{n}.attn_q": (dim, dim),
            f"blk.{n}.attn_k": (kv, dim),
            f"blk.{n}.attn_v": (kv, dim),
            f"blk.{n}.attn_output": (dim, dim),
            f"blk.{n}.ffn_gate": (2 * dim, dim),
            f"blk.{n}.ffn_up": (2 * dim, dim),
            f"blk.{n}.ffn_down": (dim, 2 * dim),
        }
    for name, (rows, cols) in shapes.items():
        form = next(turns)
        raw = blocks.weights(form, rows, cols, rng, 1.5 / cols**0.5)
        w.add_tensor(f"{name}.weight", raw, raw_dtype=blocks.kind_of(form))
    norms = [f"blk.{n}.{part}_norm" for n in range(LAYERS) for part in ("attn", "ffn")]
    for name in (*norms, "output_norm"):
        w.add_tensor(f"{name}.weight", rng.normal(1.0, 0.3, dim).astype(np.float32))
    return _written(w, path)


def _add_metadata(w: gguf.GGUFWriter, dim: int, ffn: int, tokenizer: bool, pads: int = 0) -> None:
    w.add_context_length(CONTEXT)
    w.add_embedding_length(dim)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(ffn)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(dim // HEADS)
    w.add_vocab_size(VOCAB + pads)
    if tokenizer:
        tokens = vocabulary()
        unused = [f"[PAD{VOCAB + n}]" for n in range(pads)]
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("smollm")
        w.add_token_list(tokens + unused)
        w.add_token_types([3 if t in SPECIAL else 1 for t in tokens] + [5 for _ in unused])
        w.add_token_merges(list(MERGES))
        w.add_eos_token_id(tokens.index("<|im_end|>"))
        w.add_bos_token_id(tokens.index(BOS))
        w.add_add_bos_token(True)
        w.add_chat_template(TEMPLATE)


def _written(w: gguf.GGUFWriter, path: Path) -> Path:
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def _paired(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from half-split to adjacent pairs, as the converter permutes q and k."""
    rows = weight.shape[0]
    halves = weight.reshape(heads, 2, rows // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
