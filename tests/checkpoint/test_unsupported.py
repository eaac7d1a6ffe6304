"""An architecture that is not here: what it is and what comes nearest, in one short line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.names import GGUF_ARCHITECTURES
from rbee_worker.checkpoint.unsupported import PLANNED, unsupported
from rbee_worker.errors import LINE, UnsupportedModel
from rbee_worker.models import ARCHITECTURES
from tests import tiny
from tests.archs.families import FAMILIES
from tests.archs.page import works
from tests.outlines import planned_model


def refused(folder: Path) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        planned_model(open_checkpoint(str(folder)), "f32")
    assert len(caught.value.line) <= LINE
    assert " Fix: use one of llama, " in caught.value.line
    return caught.value.message


def test_the_nearest_is_the_one_that_is_built_alike(tmp_path: Path) -> None:
    folder = tiny.write_safetensors(tmp_path / "m", model_type="quite_another")
    assert "'quite_another' is not supported (nearest: llama)" in refused(folder)
    tensors = load_file(folder / "model.safetensors")
    head = tiny.DIM // tiny.HEADS
    widths = {"q": tiny.DIM, "k": tiny.KV_HEADS * head, "v": tiny.KV_HEADS * head}
    for layer in range(tiny.LAYERS):
        for part, width in widths.items():
            name = f"model.layers.{layer}.self_attn.{part}_proj.bias"
            tensors[name] = np.zeros(width, np.float32)
    save_file(tensors, folder / "model.safetensors")
    assert "(nearest: qwen2)" in refused(folder)


def test_a_gguf_file_is_known_by_its_tensors(tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "m.gguf", arch="quite-another")
    with pytest.raises(UnsupportedModel, match=r"'quite-another' is not supported \(nearest: lla"):
        open_checkpoint(str(path))


KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "planned": ({"model_type": "rwkv"}, "'rwkv' (a recurrent model) is planned"),
    "encoder and decoder": (
        {"model_type": "x", "is_encoder_decoder": True},
        "(an encoder and a decoder) is not supported",
    ),
    "pictures": ({"model_type": "x", "vision_config": {}}, "(a model of images and text)"),
    "sound": ({"model_type": "x", "audio_config": {}}, "(a model of audio and text)"),
    "recurrent": ({"model_type": "x", "state_size": 16}, "(a recurrent model)"),
    "hybrid": (
        {"model_type": "x", "mamba_d_state": 16, "num_attention_heads": 2},
        "(a model of recurrent and attention layers)",
    ),
    "encoder": ({"model_type": "x", "architectures": ["XForMaskedLM"]}, "(an encoder: it makes"),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_kind_of_model_it_is(name: str) -> None:
    config, says = KINDS[name]
    error = unsupported(config["model_type"], ARCHITECTURES, "m", config=config)
    assert says in error.message
    assert len(error.line) <= LINE


def test_planned_is_what_exists_and_is_not_supported() -> None:
    """transformers knows the model types; the page of architectures says what is planned."""
    others = {"modern-bert", "t5encoder"}
    assert set(PLANNED) - others <= set(transformers.CONFIG_MAPPING)
    assert set(PLANNED) & {*ARCHITECTURES, *GGUF_ARCHITECTURES} == set()
    page = {t for family in FAMILIES if not works(family) for t in family.types}
    assert page <= set(PLANNED)


def test_a_name_alone_is_enough_for_a_hint() -> None:
    error = unsupported("lama", ARCHITECTURES, "m")
    assert error.message == "m: architecture 'lama' is not supported (nearest: llama)."
