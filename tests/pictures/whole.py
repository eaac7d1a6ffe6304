"""A whole small SmolVLM on disk: random weights, a vocabulary, a chat template, a processor."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from tests.pictures.making import IDEFICS3, IDEFICS3_TOKENS, tokenizer_json, write
from tests.seeing import TEXT, VISION

ROWS = 16  # tokens of a tile: 32 x 32 pixels in patches of 4, four of them in a row of the tower


def write_smolvlm(folder: Path, context: int = 512) -> Path:
    """Hugging Face's files. context: tokens that its config.json says it was made for."""
    prompt = {"processor_class": "SmolVLMProcessor", "image_seq_len": ROWS}
    write(folder, "idefics3", IDEFICS3, prompt)
    tokens = tokenizer_json(IDEFICS3_TOKENS)["added_tokens"]
    ids = {token["content"]: token["id"] for token in tokens}
    size = 1 + max(ids.values())
    text = {"model_type": "llama", **TEXT, "vocab_size": size, "eos_token_id": size - 1}
    text["max_position_embeddings"] = context
    torch.manual_seed(3)
    config = SmolVLMConfig(
        text_config=text, vision_config=VISION, scale_factor=2, image_token_id=ids["<image>"]
    )
    model = SmolVLMForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.mul_(4.0)
    model.save_pretrained(folder)
    return folder
