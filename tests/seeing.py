"""Tiny models with a tower and random weights: transformers', their files, and their answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    PreTrainedModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from rbee_worker.pictures import Picture
from rbee_worker.pictures.picture import picture
from tests.moondream import Moondream

VOCAB, PLACE = 211, 205
TEXT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 4,
}


Model = PreTrainedModel | Moondream


@dataclass(frozen=True)
class Seeing:
    """A row: its name, what makes transformers' model of it, its `model_type`, the pixels of a
    tile's edge, and the tokens that stand for a tile. oracle: what makes it, if not transformers
    alone."""

    id: str
    make: Callable[[], Model]
    type: str
    side: int
    rows: int
    oracle: str = ""


def _smolvlm() -> PreTrainedModel:
    text = {"model_type": "llama", **TEXT}
    c = SmolVLMConfig(text_config=text, vision_config=VISION, scale_factor=2, image_token_id=PLACE)
    return SmolVLMForConditionalGeneration(c)


def _idefics3() -> PreTrainedModel:
    """Another size of everything, squares of 9 patches, pixels beside the last ones, a tied
    head."""
    text = {"model_type": "llama", **TEXT, "num_key_value_heads": 4, "tie_word_embeddings": True}
    vision = VISION | {
        "image_size": 33,
        "patch_size": 5,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    }
    c = Idefics3Config(
        text_config=text,
        vision_config=vision,
        scale_factor=3,
        image_token_id=PLACE,
        tie_word_embeddings=True,
    )
    return Idefics3ForConditionalGeneration(c)


def _gemma3(window: int, pattern: int, **vision: Any) -> PreTrainedModel:
    """window, pattern: the sliding window, and every how many layers there is none."""
    text = {
        **TEXT,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": window,
        "layer_types": [
            "sliding_attention" if (n + 1) % pattern else "full_attention" for n in range(4)
        ],
    }
    c = Gemma3Config(
        text_config=text,
        vision_config=VISION | vision,
        mm_tokens_per_image=16,
        image_token_index=PLACE,
        boi_token_index=203,
        eoi_token_index=204,
    )
    return Gemma3ForConditionalGeneration(c)


def _moondream(inside: str, text: dict[str, Any], vision: dict[str, Any]) -> Moondream:
    usual = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
    own = {"image_size": 20, "patch_size": 5}
    return Moondream(usual | text, VISION | own | vision, place=PLACE, inside=inside)


def _second() -> Moondream:
    return _moondream("text_config", {"partial_rotary_factor": 0.5}, {})


def _first() -> Moondream:
    """Moondream 1: another key of the config, and another size of everything."""
    text = {"partial_rotary_factor": 0.25, "num_attention_heads": 2, "hidden_size": 96}
    vision = {"image_size": 24, "patch_size": 4, "num_attention_heads": 2, "num_hidden_layers": 3}
    return _moondream("phi_config", text, vision)


_OWN = "PhiForCausalLM, with a tower in float64 that SiglipVisionModel holds"
ROWS = (
    Seeing("smolvlm", _smolvlm, "smolvlm", 32, 16),
    Seeing("idefics3", _idefics3, "idefics3", 33, 4),
    Seeing("gemma3", lambda: _gemma3(512, 2), "gemma3", 32, 16),
    # windows shorter than a picture, squares of 9 patches
    Seeing("gemma3-near", lambda: _gemma3(11, 3, image_size=36, patch_size=3), "gemma3", 36, 16),
    Seeing("moondream", _second, "moondream1", 20, 16, _OWN),
    Seeing("moondream-1", _first, "moondream1", 24, 36, _OWN),
)
BY_ID = {row.id: row for row in ROWS}


@cache
def oracle(name: str) -> Any:
    """transformers' model, seeded; norms are random too, and blocks far from linear."""
    torch.manual_seed(11)
    model = BY_ID[name].make()
    model.train(False)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim == 1 and "norm" in key and key.endswith("weight"):
                weight.copy_(1.0 + 0.3 * torch.randn_like(weight))
            elif weight.ndim == 1:
                weight.copy_(0.1 * torch.randn_like(weight))
            elif key.endswith("mm_input_projection_weight"):  # transformers begins with zeros
                weight.copy_(0.05 * torch.randn_like(weight))
            elif "embed_tokens" in key or "lm_head" in key:
                weight.copy_((0.08 if "gemma3" in name else 0.5) * torch.randn_like(weight))
            else:
                weight.mul_(3.0)
    return model


def pixels(name: str, tiles: int, seed: int) -> np.ndarray[Any, Any]:
    """uint8 [tiles, side, side, 3], smooth as pictures are."""
    side, rng = BY_ID[name].side, np.random.default_rng(seed)
    rough = rng.integers(0, 256, (tiles, 4, 4, 3)).astype(np.float64)
    smooth = np.repeat(np.repeat(rough, -(-side // 4), 1), -(-side // 4), 2)[:, :side, :side]
    noise = rng.normal(0, 12, smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Prompt:
    """Ids, and the pixels of the pictures behind PLACE."""

    ids: tuple[int, ...]
    shown: tuple[np.ndarray[Any, Any], ...]
    pictures: tuple[Picture, ...]


def prompt(name: str, parts: Sequence[int | tuple[int, int]], seed: int = 0) -> Prompt:
    """A prompt of parts: a number is so many random tokens, (tiles, seed) a picture; between its
    tiles is one token each, as in the models' own prompts."""
    rng, rows = random.Random(seed), BY_ID[name].rows
    ids: list[int] = []
    shown, pictures = [], []
    for part in parts:
        if isinstance(part, int):
            ids += rng.choices(range(3, PLACE), k=part)
            continue
        tiles, of = part
        places = []
        for tile in range(tiles):
            ids += [10 + tile] * (tile > 0)
            places.append((len(ids), rows))
            ids += [PLACE] * rows
        found = pixels(name, tiles, of)
        side = BY_ID[name].side
        shown.append(found)
        pictures.append(picture(found.tobytes(), (tiles, side, side), tuple(places)))
    return Prompt(tuple(ids), tuple(shown), tuple(pictures))


def logits(name: str, given: Prompt, answer: Sequence[int] = ()) -> np.ndarray[Any, Any]:
    """transformers' logits float64 [tokens, vocab] of a prompt and an answer."""
    more: dict[str, Any] = {}
    if given.shown:
        tiles = torch.from_numpy(np.concatenate(given.shown)).permute(0, 3, 1, 2).float()
        values = (tiles / 255 - 0.5) / 0.5
        more = {"pixel_values": values[None]}
        if "gemma3" in name:
            kinds = (torch.tensor([[*given.ids, *answer]]) == PLACE).long()
            more = {"pixel_values": values, "token_type_ids": kinds}
    with torch.inference_mode():
        ids = torch.tensor([[*given.ids, *answer]])
        found = oracle(name)(input_ids=ids, **more).logits[0]
    numbers: np.ndarray[Any, Any] = found.double().numpy()
    return numbers


def write(name: str, folder: Path) -> Path:
    """Hugging Face's files."""
    oracle(name).save_pretrained(folder)
    return folder
