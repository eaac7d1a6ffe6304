"""A tiny MetaVoice with random weights: its files in candle's layout, and what they compute, in
float64, written from the published description and from nothing of ours.

Description: fam/llm/fast_model.py and fam/llm/model.py of metavoice-src (first and second stage),
fast_inference_utils.py (guidance).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import erf, sqrt
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from tests.checkpoint import gguf_bytes

F64 = Any  # numpy arrays of float64
Voice = Any  # float32 [speaker]

CODES, END_OF_AUDIO = 1024, 2048
TEXT = 2049  # the id of the first text token
MERGED = ("th", "the", "in", "an")  # ranks 256 ..
END_RANK = 512
VOCAB = TEXT + END_RANK + 1
END_OF_TEXT = TEXT + END_RANK
PATTERN = r" ?\p{L}+| ?[^\s\p{L}]+|\s+"


@dataclass(frozen=True)
class Shape:
    """A first stage, and a second one of other sizes."""

    width: int = 64
    heads: int = 4
    kv_heads: int = 4
    layers: int = 3
    inner: int = 96
    context: int = 512
    speaker: int = 24
    eps: float = 1e-5
    second_width: int = 48
    second_heads: int = 3
    second_layers: int = 2
    second_length: int = 160
    second_bias: bool = False
    second_gated: bool = False


SHAPES = {
    "plain": Shape(),
    # fewer keys than queries, another epsilon; a second stage with biases and gates
    "grouped": Shape(
        width=80,
        heads=5,
        kv_heads=1,
        layers=2,
        inner=112,
        context=300,
        speaker=16,
        eps=1e-3,
        second_bias=True,
        second_gated=True,
    ),
}


@cache
def first(name: str) -> dict[str, F64]:
    """The first stage's tensors, which float32 holds exactly."""
    s, rng = SHAPES[name], np.random.default_rng(5)
    head = s.width // s.heads

    def matrix(rows: int, cols: int, size: float) -> F64:
        return rng.normal(0, size, (rows, cols))

    found = {
        "tok_embeddings.weight": matrix(VOCAB, s.width, 0.7),
        "pos_embeddings.weight": matrix(s.context, s.width, 0.4),
        "speaker_cond_pos.weight": matrix(s.width, s.speaker, 0.9),
        "norm.weight": 1 + 0.3 * rng.normal(size=s.width),
        "output.weight": matrix(VOCAB, s.width, 0.25),
    }
    for n in range(s.layers):
        at = f"layers.{n}."
        rows = (s.heads + 2 * s.kv_heads) * head
        found |= {
            f"{at}attention.wqkv.weight": matrix(rows, s.width, 2 / sqrt(s.width)),
            f"{at}attention.wo.weight": matrix(s.width, s.width, 1 / sqrt(s.width)),
            f"{at}feed_forward.swiglu.w1.weight": matrix(s.inner, s.width, 1.5 / sqrt(s.width)),
            f"{at}feed_forward.swiglu.w3.weight": matrix(s.inner, s.width, 1 / sqrt(s.width)),
            f"{at}feed_forward.w2.weight": matrix(s.width, s.inner, 1 / sqrt(s.inner)),
            f"{at}attention_norm.weight": 1 + 0.3 * rng.normal(size=s.width),
            f"{at}ffn_norm.weight": 1 + 0.3 * rng.normal(size=s.width),
        }
    return {key: value.astype(np.float32).astype(np.float64) for key, value in found.items()}


@cache
def second(name: str) -> dict[str, F64]:
    """The second stage's tensors."""
    s, rng = SHAPES[name], np.random.default_rng(6)
    width = s.second_width
    found: dict[str, F64] = {
        "transformer.wpe.weight": rng.normal(0, 0.3, (s.second_length, width)),
        "transformer.wtes.0.weight": rng.normal(0, 0.5, (CODES + 1 + END_RANK + 1, width)),
        "transformer.wtes.1.weight": rng.normal(0, 0.5, (CODES + 1, width)),
        "speaker_cond_pos.weight": rng.normal(0, 0.5, (width, s.speaker)),
    }

    def linear(key: str, rows: int, cols: int) -> None:
        found[f"{key}.weight"] = rng.normal(0, 1.5 / sqrt(cols), (rows, cols))
        if s.second_bias:
            found[f"{key}.bias"] = rng.normal(0, 0.2, rows)

    def norm(key: str) -> None:
        found[f"{key}.weight"] = 1 + 0.3 * rng.normal(size=width)
        if s.second_bias:
            found[f"{key}.bias"] = rng.normal(0, 0.2, width)

    for n in range(s.second_layers):
        at = f"transformer.h.{n}"
        norm(f"{at}.ln_1")
        norm(f"{at}.ln_2")
        linear(f"{at}.attn.c_attn", 3 * width, width)
        linear(f"{at}.attn.c_proj", width, width)
        for up in ("swiglu.w1", "swiglu.w3") if s.second_gated else ("c_fc",):
            linear(f"{at}.mlp.{up}", 2 * width, width)
        linear(f"{at}.mlp.c_proj", width, 2 * width)
    norm("transformer.ln_f")
    for n in range(6):
        found[f"lm_heads.{n}.weight"] = rng.normal(0, 0.4, (CODES + 1, width))
    return {key: value.astype(np.float32).astype(np.float64) for key, value in found.items()}


def voice(name: str, seed: int) -> Voice:
    """A speaker's embedding: not negative, of length 1."""
    values = np.abs(np.random.default_rng(seed).normal(size=SHAPES[name].speaker))
    return (values / np.sqrt((values**2).sum())).astype(np.float32)


# ---- what they compute


def logits(name: str, ids: Sequence[int], speaker: Voice | None) -> F64:
    """The first stage's logits after every token of `ids`, with a speaker or without: [n,
    vocab]."""
    s, w = SHAPES[name], first(name)
    head, rows = s.width // s.heads, len(ids)
    x = w["tok_embeddings.weight"][list(ids)] + w["pos_embeddings.weight"][:rows]
    if speaker is not None:
        x = x + w["speaker_cond_pos.weight"] @ np.asarray(speaker, np.float64)
    for n in range(s.layers):
        at = f"layers.{n}."
        qkv = rms(x, w[f"{at}attention_norm.weight"], s.eps) @ w[f"{at}attention.wqkv.weight"].T
        mixed = np.zeros((rows, s.width))
        for h in range(s.heads):
            group = h // (s.heads // s.kv_heads)
            q = qkv[:, h * head : (h + 1) * head]
            k = qkv[:, s.width + group * head :][:, :head]
            v = qkv[:, s.width + (s.kv_heads + group) * head :][:, :head]
            for row in range(rows):
                scores = k[: row + 1] @ q[row] / sqrt(head)
                weights = np.exp(scores - scores.max())
                mixed[row, h * head : (h + 1) * head] = weights / weights.sum() @ v[: row + 1]
        x = x + mixed @ w[f"{at}attention.wo.weight"].T
        y = rms(x, w[f"{at}ffn_norm.weight"], s.eps)
        gate = y @ w[f"{at}feed_forward.swiglu.w1.weight"].T
        up = y @ w[f"{at}feed_forward.swiglu.w3.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{at}feed_forward.w2.weight"].T
    return rms(x, w["norm.weight"], s.eps) @ w["output.weight"].T


def guided(name: str, ids: Sequence[int], speaker: Voice, scale: float) -> F64:
    """The logits that the token after `ids` is drawn from."""
    own, other = logits(name, ids, speaker)[-1], logits(name, ids, None)[-1]
    return scale * own + (1 - scale) * other


def rms(x: F64, weight: F64, eps: float) -> F64:
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps) * weight


def second_logits(
    name: str,
    text: Sequence[int],
    frames: Sequence[tuple[int, int]],
    speaker: Voice | None,
) -> list[F64]:
    """The second stage's logits of every frame, for each of its six codebooks."""
    s, w = SHAPES[name], second(name)
    head, length = s.second_width // s.second_heads, s.second_length
    above = [CODES + 1 + token for token in text] + [a for a, _ in frames]
    below = [CODES] * len(text) + [b for _, b in frames]
    above, below = ([*part, *[CODES] * (length - len(part))] for part in (above, below))
    x = w["transformer.wpe.weight"] + w["transformer.wtes.0.weight"][above]
    x = x + w["transformer.wtes.1.weight"][below]
    if speaker is not None:
        x = x + w["speaker_cond_pos.weight"] @ np.asarray(speaker, np.float64)

    def linear(y: F64, key: str) -> F64:
        return y @ w[f"{key}.weight"].T + w.get(f"{key}.bias", 0.0)

    def norm(y: F64, key: str) -> F64:
        off = y - y.mean(axis=1, keepdims=True)
        scaled = off / np.sqrt((off**2).mean(axis=1, keepdims=True) + 1e-5)
        return scaled * w[f"{key}.weight"] + w.get(f"{key}.bias", 0.0)

    for n in range(s.second_layers):
        at = f"transformer.h.{n}"
        q, k, v = np.split(linear(norm(x, f"{at}.ln_1"), f"{at}.attn.c_attn"), 3, axis=1)
        mixed = np.zeros_like(x)
        for h in range(s.second_heads):
            part = slice(h * head, (h + 1) * head)
            scores = q[:, part] @ k[:, part].T / sqrt(head)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed[:, part] = weights / weights.sum(axis=1, keepdims=True) @ v[:, part]
        x = x + linear(mixed, f"{at}.attn.c_proj")
        y = norm(x, f"{at}.ln_2")
        if s.second_gated:
            gate, up = linear(y, f"{at}.mlp.swiglu.w1"), linear(y, f"{at}.mlp.swiglu.w3")
            bent = gate / (1 + np.exp(-gate)) * up
        else:
            up = linear(y, f"{at}.mlp.c_fc")
            bent = up * 0.5 * (1 + np.vectorize(erf)(up / sqrt(2)))
        x = x + linear(bent, f"{at}.mlp.c_proj")
    x = norm(x, "transformer.ln_f")[len(text) : len(text) + len(frames)]
    return [x @ w[f"lm_heads.{n}.weight"].T for n in range(6)]


# ---- files


def config(name: str) -> dict[str, Any]:
    s = SHAPES[name]
    return {
        "model_type": "metavoice",
        "vocab_size": VOCAB,
        "dim": s.width,
        "n_layer": s.layers,
        "n_head": s.heads,
        "n_local_heads": s.kv_heads,
        "intermediate_size": s.inner,
        "block_size": s.context,
        "norm_eps": s.eps,
        "speaker_emb_dim": s.speaker,
        "second_stage": {"n_head": s.second_heads},
    }


def meta() -> dict[str, Any]:
    """first_stage.meta.json: byte pairs by rank."""
    ranks = {chr(n): n for n in range(128)} | {t: 256 + n for n, t in enumerate(MERGED)}
    return {
        "tokenizer": {
            "name": "tiny",
            "pat_str": PATTERN,
            "mergeable_ranks": ranks,
            "special_tokens": {"<|endoftext|>": END_RANK},
            "offset": TEXT,
        }
    }


def write(folder: Path, name: str = "plain", *, more: bool = True) -> Path:
    """The directory. more: with a second stage and a voice."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(name)))
    (folder / "first_stage.meta.json").write_text(json.dumps(meta()))
    save_file(_narrow(first(name)), folder / "first_stage.safetensors")
    if more:
        save_file(_narrow(second(name)), folder / "second_stage.safetensors")
        save_file({"spk_emb": voice(name, 1)[None]}, folder / "spk_emb.safetensors")
    return folder


def write_gguf(folder: Path, name: str = "plain", kind: str = "F32") -> Path:
    """The same directory with the first stage as candle's `tensor-tools` packs it: matrices whose
    rows are whole blocks in the format `kind`."""
    write(folder, name)
    (folder / "first_stage.safetensors").unlink()
    entries, data = [], b""
    for key, value in _narrow(first(name)).items():
        packed = value.ndim == 2 and value.shape[1] % 32 == 0
        type_ = gguf.GGMLQuantizationType[kind if packed else "F32"]
        data += bytes(-len(data) % 32)
        entries.append(gguf_bytes.tensor(key, value.shape[::-1], int(type_), len(data)))
        data += gguf.quants.quantize(value, type_).tobytes()
    path = folder / "first_stage_q.gguf"
    path.write_bytes(gguf_bytes.gguf([], entries, data))
    return path


def _narrow(tensors: dict[str, F64]) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    return {key: value.astype(np.float32) for key, value in tensors.items()}
