"""Small pictures, and the text sides of small models that take them, beside transformers' own
processors from the same files."""

from __future__ import annotations

import base64
import copy
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

from rbee_worker.checkpoint.processor import read_processor
from rbee_worker.config import Settings
from rbee_worker.model_info import ModelInfo, Purpose
from rbee_worker.session.text import TextSide, open_text
from tests.tokenizer.builders import Source, train_byte_level
from tests.tokenizer.published import PUBLISHED

# As SmolVLM and Gemma 3 publish theirs, apart from what has nothing to do with pictures.
SMOLVLM_CHAT = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
GEMMA_CHAT = (
    "{{ '<bos>' }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' }}{% if message['content'] is string %}"
    "{{ message['content'] | trim }}{% else %}{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}{{ '<start_of_image>' }}{% elif item['type'] == 'text' %}"
    "{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
IDEFICS3_TOKENS = (
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{y}_col_{x}>" for y in range(1, 4) for x in range(1, 4)),
)
GEMMA_TOKENS = (
    *("<bos>", "<start_of_turn>", "<end_of_turn>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
)
GEMMA_NAMES = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
IDEFICS3: dict[str, Any] = {
    "image_processor_type": "Idefics3ImageProcessor",
    "size": {"longest_edge": 64},
    "max_image_size": {"longest_edge": 32},
    "do_image_splitting": True,
}
GEMMA3: dict[str, Any] = {
    "image_processor_type": "Gemma3ImageProcessor",
    "size": {"height": 32, "width": 32},
    "do_pan_and_scan": None,
}
IDEFICS3_PROMPT: dict[str, Any] = {"processor_class": "Idefics3Processor", "image_seq_len": 4}
GEMMA3_PROMPT: dict[str, Any] = {"processor_class": "Gemma3Processor", "image_seq_length": 5}

INFO = ModelInfo(
    model="x",
    arch="x",
    device="cpu",
    backend="cpu",
    dtype="f32",
    kv_dtype="f32",
    context=8192,
    vocab_size=2048,
    kv_tokens=8192,
    block_size=16,
    weight_bytes=1,
    kv_bytes=1,
    n_layers=1,
    n_parameters=1,
    purpose=Purpose(pictures=True),
)


def drawn(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A picture of noise."""
    rng = np.random.default_rng(seed)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,), "CMYK": (4,)}[mode]
    values = rng.integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(values, mode)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of the picture's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def encoded(file: bytes) -> str:
    """Base64."""
    return base64.b64encode(file).decode()


def data_url(file: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{encoded(file)}"


@cache
def _trained() -> str:
    return json.dumps(train_byte_level(*PUBLISHED["llama-bpe"], size=400))


def tokenizer_json(tokens: tuple[str, ...]) -> dict[str, Any]:
    """A byte-level vocabulary with special tokens of its own."""
    made: dict[str, Any] = copy.deepcopy(json.loads(_trained()))
    first = 1 + max(*made["model"]["vocab"].values(), *(t["id"] for t in made["added_tokens"]))
    marks = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    made["added_tokens"] += [
        {"id": first + n, "content": token, "special": True, **marks}
        for n, token in enumerate(tokens)
    ]
    return made


def write(folder: Path, name: str, image: dict[str, Any], prompt: dict[str, Any]) -> None:
    """The files of a model that say how it takes text and pictures. name: "idefics3", "gemma3"."""
    tokens = IDEFICS3_TOKENS if name == "idefics3" else GEMMA_TOKENS
    template = SMOLVLM_CHAT if name == "idefics3" else GEMMA_CHAT
    config = {"chat_template": template, **(GEMMA_NAMES if name == "gemma3" else {})}
    for file, value in (
        ("tokenizer.json", tokenizer_json(tokens)),
        ("tokenizer_config.json", config),
        ("preprocessor_config.json", image),
        ("processor_config.json", prompt),
    ):
        (folder / file).write_text(json.dumps(value), encoding="utf-8")


def side(folder: Path, settings: Settings | None = None) -> TextSide:
    """Our text side of those files."""
    source = Source(
        files={"tokenizer.json": folder / "tokenizer.json"},
        tokenizer_config=json.loads((folder / "tokenizer_config.json").read_text()),
        processor=read_processor(folder),
    )
    return open_text(source, settings or Settings())  # type: ignore[arg-type]


def reference(folder: Path, name: str) -> Any:
    """transformers' processor of those files, with Pillow."""
    image = json.loads((folder / "preprocessor_config.json").read_text())
    prompt = json.loads((folder / "processor_config.json").read_text())
    prompt.pop("processor_class")
    del image["image_processor_type"]
    names = GEMMA_NAMES if name == "gemma3" else {}
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(folder / "tokenizer.json"), extra_special_tokens=names
    )
    if name == "gemma3":
        return Gemma3Processor(Gemma3ImageProcessorPil(**image), tokenizer, **prompt)
    return Idefics3Processor(Idefics3ImageProcessorPil(**image), tokenizer, **prompt)


def tiles_of(pixels: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """[tiles, height, width, 3]"""
    return np.frombuffer(pixels, np.uint8).reshape(*shape, 3)
