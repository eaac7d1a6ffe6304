"""Configs, edited; the outside reader is transformers: where both read one, logits are equal."""

from __future__ import annotations

import json
import logging
import os
import random
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.models.base import Decoder
from tests.archs import ARCHS, Arch, write_checkpoint
from tests.driver import Driver
from tests.generated import mutate
from tests.generated.budget import within_budget
from tests.test_archs import error, load

TOKENS = [3, 17, 42, 5, 9, 60, 1, 33, 8, 21, 50, 2]
TOLERANCE = 1e-3
ROPES: tuple[Any, ...] = (
    None,
    {},
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.0},
    {"type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
    {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
    },
)
# Values that people write under keys that some family reads.
LIKELY: dict[str, tuple[Any, ...]] = {
    "rope_theta": (1e4, 5e5, 10000, None),
    "rope_local_base_freq": (1e4, 5e3),
    "rope_scaling": ROPES,
    "rope_parameters": ROPES,
    "partial_rotary_factor": (0.5, 1.0, 0.25),
    "rms_norm_eps": (1e-5, 1e-6, 1e-2),
    "layer_norm_eps": (1e-5, 1e-2),
    "layer_norm_epsilon": (1e-5, 1e-2),
    "norm_epsilon": (1e-5, 1e-2),
    "hidden_act": ("silu", "gelu", "gelu_new", "relu", "gelu_pytorch_tanh", "quick_gelu"),
    "hidden_activation": ("gelu", "silu", "gelu_pytorch_tanh"),
    "activation_function": ("gelu", "relu"),
    "tie_word_embeddings": (True, False, None),
    "sliding_window": (4, 8, None),
    "use_sliding_window": (True, False),
    "max_window_layers": (0, 1, 2),
    "sliding_window_pattern": (1, 2, 3),
    "layer_types": (None, ["full_attention"] * 3, ["sliding_attention"] * 3),
    "attention_bias": (True, False),
    "mlp_bias": (True, False),
    "attention_multiplier": (0.1, 1.0),
    "embedding_multiplier": (2.0, 1.0),
    "residual_multiplier": (0.5, 1.0),
    "logits_scaling": (2.0, 1.0),
    "logit_scale": (0.25, 1.0),
    "attn_logit_softcapping": (2.0, None),
    "final_logit_softcapping": (2.0, None),
    "query_pre_attn_scalar": (8, 64.0),
    "clip_qkv": (0.5, None),
    "max_position_embeddings": (16, 4096, 64),
    "original_max_position_embeddings": (8, 16),
    "num_experts_per_tok": (1, 2),
    "norm_topk_prob": (True, False),
    "no_rope_layer_interval": (2, 4),
    "no_rope_layers": ([1, 0, 1], None),
    "use_qk_norm": (True, False),
    "qk_layernorm": (True, False),
    "use_parallel_residual": (True, False),
    "routed_scaling_factor": (1.0, 2.5),
    "head_dim": (8, 16, None),
    "pad_token_id": (0, None, 5),
    "torch_dtype": ("float32", "bfloat16"),
}


@cache
def base(arch: Arch, folder: Path) -> Path:
    """The sound checkpoint of a row."""
    home = folder / f"base-{arch.id}"
    transformers.logging.set_verbosity(logging.CRITICAL)
    return write_checkpoint(arch, home)


def edited(rng: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    """A config with one to three of its values as somebody else would write them."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        how = rng.random()
        known = [key for key in LIKELY if key in config]
        if how < 0.45 and known:
            key = rng.choice(known)
            config = {**config, key: rng.choice(LIKELY[key])}
        elif how < 0.65:
            key = rng.choice(sorted(LIKELY))
            config = {**config, key: rng.choice(LIKELY[key])}
        elif how < 0.8:
            key = rng.choice(sorted(config))
            config = {k: v for k, v in config.items() if k != key}
        else:
            config = mutate.edited(rng, config)
    return config


def check(number: int, folder: Path) -> str:
    """Run case `number`: "refused", "alone" where transformers refuses, or "equal"."""
    rng = random.Random(f"config {number}")
    arch = rng.choice(ARCHS)
    sound = base(arch, folder)
    home = folder / "case"
    home.mkdir(exist_ok=True)
    for old in home.iterdir():
        old.unlink()
    os.link(sound / "model.safetensors", home / "model.safetensors")
    config = edited(rng, json.loads((sound / "config.json").read_text()))
    (home / "config.json").write_bytes(mutate.written(config))
    outcome = within_budget(lambda: load(home))
    if outcome.value is None:
        return "refused"
    want = theirs(arch, home)
    if want is None or not comparable(arch, folder):
        return "alone"
    got = ours(outcome.value)
    assert error(got, want) < TOLERANCE, f"{arch.id}: {error(got, want):.3g}"
    open_checkpoint(str(home))
    return "equal"


@cache
def comparable(arch: Arch, folder: Path) -> bool:
    """Do both read the sound checkpoint alike? Some need corrections, some another class."""
    sound = base(arch, folder)
    want = theirs(arch, sound) if arch.disk is None else None
    return want is not None and error(ours(load(sound)), want) < TOLERANCE


def ours(model: Decoder) -> torch.Tensor:
    driver = Driver(model)
    (got,) = driver.feed([(driver.start(TOKENS), len(TOKENS))])
    return got


def _ropes_ignored(config: Any) -> bool:
    """Has transformers put defaults for each type of layer beside the one rotary table that the
    file gives for all, and left that unread? It is no oracle for such a file."""
    given = getattr(config, "rope_parameters", None) or {}
    return "rope_type" in given and any(isinstance(entry, dict) for entry in given.values())


def theirs(arch: Arch, folder: Path) -> torch.Tensor | None:
    """transformers' logits; None where it refuses, or has not all of its weights from the file."""
    try:
        model, info = arch.model.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
        )
        if any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
            return None
        if _ropes_ignored(model.config):
            return None
        with torch.inference_mode():
            logits = model.eval()(torch.tensor([TOKENS])).logits[0]
    except Exception:
        return None
    return logits if bool(torch.isfinite(logits).all()) else None
