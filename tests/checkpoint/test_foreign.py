"""Checkpoints of other kinds are called what they are, with what can be done: never "damaged"."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers.utils.quantization_config import QuantizationMethod

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.foreign import METHODS
from rbee_worker.errors import LINE, ModelError
from tests import tiny
from tests.checkpoint import gguf_bytes as g


def said(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        open_checkpoint(str(path))
    error = caught.value
    assert error.fix
    assert "again" not in error.fix
    assert len(error.line) <= LINE
    assert error.exit_code == 3
    return error


QUANTIZED: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "gptq": ({"quant_method": "gptq", "bits": 4}, ["qweight", "qzeros", "g_idx"], "GPTQ (4 bits)"),
    "awq": ({"quant_method": "awq", "bits": 4}, ["qweight", "qzeros"], "AWQ (4 bits)"),
    "bitsandbytes": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        ["SCB"],
        "bitsandbytes (8 bits)",
    ),
    "compressed-tensors": ({"quant_method": "compressed-tensors"}, [], "compressed-tensors"),
    "modelopt": ({"quant_method": "modelopt"}, [], "NVIDIA ModelOpt"),
    "of tomorrow": ({"quant_method": "tomorrow"}, [], "'tomorrow'"),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_weights_that_others_have_quantized(name: str, tmp_path: Path) -> None:
    config, tensors, says = QUANTIZED[name]
    folder = tiny.write_safetensors(tmp_path / "m", quantization_config=config)
    weights = load_file(folder / "model.safetensors")
    weights |= {f"model.layers.0.mlp.up_proj.{t}": np.zeros(4, np.int32) for t in tensors}
    save_file(weights, folder / "model.safetensors")
    error = said(folder)
    assert f"its weights are quantized by {says}, which cannot be read" in error.message
    assert "plain safetensors version" in str(error.fix)


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        ("qzeros", "GPTQ or AWQ"),
        ("weight.absmax", "bitsandbytes"),
        ("weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("weight_packed", "compressed-tensors"),
    ],
)
def test_a_config_that_does_not_say_so(tensor: str, says: str, tmp_path: Path) -> None:
    folder = tiny.write_safetensors(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    weights[f"model.layers.0.mlp.up_proj.{tensor}"] = np.zeros(4, np.uint8)
    save_file(weights, folder / "model.safetensors")
    assert f"quantized by {says}" in said(folder).message


def test_other_places_for_the_word(tmp_path: Path) -> None:
    mlx = tiny.write_safetensors(tmp_path / "mlx", quantization={"group_size": 64, "bits": 4})
    assert "quantized by MLX (4 bits)" in said(mlx).message
    modelopt = tiny.write_safetensors(tmp_path / "modelopt")
    (modelopt / "hf_quant_config.json").write_text("{}")
    assert "quantized by NVIDIA ModelOpt" in said(modelopt).message
    older = {"quant_method": "compressed-tensors"}
    older_one = tiny.write_safetensors(tmp_path / "older", compression_config=older)
    assert "quantized by compressed-tensors" in said(older_one).message


def test_every_method_of_transformers_has_a_name() -> None:
    assert {method.value for method in QuantizationMethod} <= set(METHODS)


DIRECTORIES: dict[str, tuple[dict[str, str], str]] = {
    "an adapter": (
        {
            "adapter_config.json": '{"base_model_name_or_path": "o/m"}',
            "adapter_model.safetensors": "",
        },
        "a LoRA adapter of 'o/m', not a model",
    ),
    "an adapter, pickled": (
        {"adapter_config.json": "{}", "adapter_model.bin": "x"},
        "a LoRA adapter, not a model",
    ),
    "ONNX": ({"model.onnx": "x", "config.json": "{}"}, "an ONNX export"),
    "pictures": ({"model_index.json": "{}"}, "a diffusers pipeline"),
    "Mistral's": (
        {"params.json": "{}", "consolidated.safetensors": "x"},
        "Mistral's or Meta's own",
    ),
    "Meta's": ({"params.json": "{}", "consolidated.00.pth": "x"}, "Meta's own format, pickled"),
    "TensorFlow": ({"tf_model.h5": "x", "config.json": "{}"}, "TensorFlow weights"),
    "Flax": ({"flax_model.msgpack": "x"}, "Flax weights"),
    "NeMo": ({"m.nemo": "x"}, "a NeMo archive"),
    "OpenVINO": ({"openvino_model.xml": "x"}, "an OpenVINO export"),
}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_directories_of_something_else(name: str, tmp_path: Path) -> None:
    files, says = DIRECTORIES[name]
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    assert says in said(tmp_path).message


def test_an_adapter_beside_a_model_is_not_the_model(tmp_path: Path) -> None:
    folder = tiny.write_safetensors(tmp_path / "m")
    (folder / "adapter_config.json").write_text("{}")
    save_file({"a": np.zeros(2, np.float32)}, folder / "adapter_model.safetensors")
    assert open_checkpoint(str(folder)).notes == (
        "adapter_model.safetensors is not part of the model",
    )


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4968\n"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer_config.json"])
def test_a_pointer_of_git_lfs_is_named(file: str, tmp_path: Path) -> None:
    folder = tiny.write_safetensors(tmp_path / "m")
    (folder / file).write_text(POINTER)
    error = said(folder)
    assert f"{file}: a git-lfs pointer, not the file itself" in error.message
    assert "git lfs pull" in str(error.fix)
    (tmp_path / "m.gguf").write_text(POINTER)
    assert "a git-lfs pointer" in said(tmp_path / "m.gguf").message


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"general.type": "adapter", "general.architecture": "llama"}, "a LoRA adapter"),
        ({"general.type": "mmproj", "general.architecture": "clip"}, "image encoder (mmproj)"),
        ({"general.architecture": "clip"}, "image encoder (mmproj)"),
        ({"general.type": "imatrix"}, "an importance matrix"),
    ],
)
def test_gguf_files_that_are_no_model(keys: dict[str, str], says: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(g.gguf([g.key(k, g.STRING, g.text(v)) for k, v in keys.items()]))
    assert f"{says}, not a model" in said(path).message


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"PK\x03\x04", "a zip archive, such as a PyTorch pickle"),
        (b"\x80\x02}q", "a Python pickle"),
        (b"tjgg\x03\0\0\0", "a GGML file from before August 2023"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"<!DOCTYPE html>", "a web page"),
        (b'\x40\0\0\0\0\0\0\0{"__metadata__"', "a safetensors file"),
        (b'{"a": 1}', "JSON"),
    ],
)
def test_files_that_are_no_gguf_are_named(start: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(start + bytes(64))
    assert f"not a GGUF file, but {says}" in said(path).message


def test_links_of_a_model_lead_only_inside_it_or_to_the_blobs(tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"chat_template": "secret"}')
    made = tiny.write_safetensors(tmp_path / "made")
    names = (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "added_tokens.json",
        "chat_template.jinja",
        "vocab.json",
    )
    for name in names:
        folder = Path(shutil.copytree(made, tmp_path / name.replace(".", "-")))
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(secret)
        error = said(folder)
        assert f"{name}: a link that leads out of the model's directory" in error.message
    snapshot = tmp_path / "models--o--m" / "snapshots" / ("a" * 40)
    blobs = tmp_path / "models--o--m" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in made.iterdir():
        shutil.copy(file, blobs / f"b-{file.name}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"b-{file.name}")
    assert json.loads((snapshot / "config.json").read_text())["model_type"] == "llama"
    assert open_checkpoint(str(snapshot)).config["hidden_size"] == tiny.DIM
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(secret)
    assert "config.json: a link that leads out" in said(snapshot).message
