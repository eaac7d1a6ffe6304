"""Weights with scales in another tensor: DeepSeek's 8-bit floats, GPT-OSS's four bits."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.foreign import refuse_quantized
from rbee_worker.checkpoint.safetensors import open_directory
from rbee_worker.checkpoint.scaled import joined, without_known_quantization
from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.models import build_model
from rbee_worker.ops.reference.dequant import dequantize
from rbee_worker.ops.reference.ops import ReferenceOps
from tests.archs import ARCHS, oracle, write_checkpoint, write_gguf
from tests.archs.base import Arch, configured
from tests.archs.latent import C3, V3
from tests.driver import Driver
from tests.outlines import planned_model

EMPTY: Any = SimpleNamespace(names=list)
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
NARROW = Arch(
    "deepseek-v3-fp8",
    V3,
    configured(
        C3,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_key_value_heads=4,
        q_lora_rank=128,
        kv_lora_rank=128,
        qk_rope_head_dim=16,
        qk_nope_head_dim=32,
        v_head_dim=32,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        moe_intermediate_size=128,
        first_k_dense_replace=1,
    ),
)
EIGHT_BITS = ("_proj.weight", "_proj_with_mqa.weight")


def in_blocks(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """8-bit floats, their scales, and what both together mean; block by block, in float32."""
    rows, cols = value.shape
    bits, meant = torch.zeros(rows, cols, dtype=torch.float8_e4m3fn), torch.zeros(rows, cols)
    scales = torch.zeros(-(-rows // 128), -(-cols // 128))
    for i in range(0, rows, 128):
        for j in range(0, cols, 128):
            at = (slice(i, i + 128), slice(j, j + 128))
            scales[i // 128, j // 128] = scale = value[at].abs().max() / 448
            bits[at] = (value[at] / scale).to(torch.float8_e4m3fn)
            meant[at] = bits[at].float() * scale
    return bits, scales, meant


def written(folder: Path) -> Path:
    """The model as DeepSeek publishes it, a layer that predicts further tokens included; its
    oracle gets the values that the 8-bit floats mean."""
    hf = oracle(NARROW)
    hf.save_pretrained(folder)
    tensors, means = {}, {}
    for name, value in load_file(folder / "model.safetensors").items():
        if name.endswith(EIGHT_BITS):
            tensors[name], tensors[f"{name}_scale_inv"], means[name] = in_blocks(value)
        else:
            tensors[name] = means[name] = value
    save_file(means, folder / "model.safetensors", metadata={"format": "pt"})
    hf.load_state_dict(V3.from_pretrained(folder).state_dict())
    more = {f"model.layers.2.{name}": torch.ones(3) for name in ("eh_proj.weight", "enorm.weight")}
    save_file(tensors | more, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": FP8}))
    return folder


def test_deepseek_in_8_bits_equals_what_its_weights_mean(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(written(tmp_path)))
    model = build_model(checkpoint, ReferenceOps())
    driver, tokens = Driver(model), list(range(3, 73))
    (got,) = driver.feed([(driver.start(tokens), 70)])
    with torch.inference_mode():
        want = oracle(NARROW)(torch.tensor([tokens])).logits[0]
    assert float((got - want).norm() / want.norm()) < 1e-4
    assert model.notes == ("kv_b_proj (F8_B128) is split on load and kept as floats",)
    assert set(model.skipped) == {"model.layers.2.eh_proj.weight", "model.layers.2.enorm.weight"}
    assert "MTP" in model.skipped["model.layers.2.enorm.weight"]


def test_the_plan_tells_what_8_bits_take_as_floats(tmp_path: Path) -> None:
    planned, plan = planned_model(open_checkpoint(str(written(tmp_path))), "bf16")
    assert planned.notes == ("kv_b_proj (F8_B128) is split on load and kept as floats",)
    tensors = load_file(tmp_path / "model.safetensors")
    eight = [v.numel() for n, v in tensors.items() if v.dtype == torch.float8_e4m3fn]
    kv_b = sum(v.numel() for n, v in tensors.items() if n.endswith("kv_b_proj.weight"))
    assert plan.file_bytes["F8_B128"] == (sum(eight) - kv_b) // 128 * 132
    vectors = ("norm.weight", "correction_bias")
    narrow = [v.numel() for n, v in tensors.items() if not n.endswith((*vectors, "_scale_inv"))]
    assert plan.held_bytes["bf16"] == 2 * (sum(narrow) - 3)  # less those of the layer left out


def test_four_bits_equal_those_that_transformers_decodes(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, 5, 2, 16), dtype=torch.uint8, generator=rng)
    scales = torch.randint(100, 140, (3, 5, 2), dtype=torch.uint8, generator=rng)
    save_file({"up_blocks": blocks, "up_scales": scales}, tmp_path / "model.safetensors")
    source = joined(open_directory(tmp_path)[0])
    assert source.names() == ["up.weight"]
    packed = source.read("up.weight")
    assert (packed.format, packed.shape, packed.data.nbytes) == ("MXFP4", (3, 5, 64), 3 * 5 * 34)
    assert source.info("up.weight").nbytes == packed.data.nbytes
    want = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert torch.equal(dequantize(packed), want.swapaxes(1, 2))


def test_four_bits_of_gguf_are_those_of_safetensors(tmp_path: Path) -> None:
    """The same numbers, gate and up alternating in one file and apart in the other."""
    (arch,) = (a for a in ARCHS if a.id == "gpt-oss-yarn-mxfp4")
    four = gguf.GGMLQuantizationType.MXFP4
    file = write_gguf(arch, oracle(arch), tmp_path / "a.gguf", four, only="_exps.weight")
    results, tokens = [], list(range(3, 43))
    for path in (file, write_checkpoint(arch, tmp_path / "hf")):
        checkpoint = open_checkpoint(str(path))
        _, plan = planned_model(checkpoint, "f32")
        assert plan.file_bytes["MXFP4"] == 3 * 4 * 3 * 64 * 96 // 32 * 17
        driver = Driver(build_model(checkpoint, ReferenceOps()))
        results.append(driver.feed([(driver.start(tokens), 40)])[0])
    assert torch.equal(*results)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_scales_of_compressed_tensors(kind: torch.dtype, tmp_path: Path) -> None:
    """One for a matrix, for each of its rows, for 128 x 128 of its values."""
    rng = torch.Generator().manual_seed(0)
    bits = torch.randn(200, 256, generator=rng).to(torch.float8_e4m3fn)
    scales = {
        "a": torch.rand(1, generator=rng),
        "b": torch.rand((), generator=rng),
        "c": torch.rand(200, 1, generator=rng),
        "d": torch.rand(200, generator=rng),
        "e": torch.rand(2, 2, generator=rng),
    }
    scales = {name: value.to(kind) for name, value in scales.items()}
    tensors = {f"{name}.weight": bits.clone() for name in scales}
    tensors |= {f"{name}.weight_scale": value for name, value in scales.items()}
    tensors |= {"other": torch.ones(3), "other_scale": torch.ones(3)}  # no 8-bit floats
    save_file(tensors, tmp_path / "model.safetensors")
    source = joined(open_directory(tmp_path)[0])
    assert sorted(source.names()) == ["a.weight", "b.weight", "c.weight", "d.weight", "e.weight",
                                      "other", "other_scale"]  # fmt: skip
    for name, scale in scales.items():
        each = scale.float()
        if name == "e":
            each = each.repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)
        want = bits.float() * (each[:, None] if name == "d" else each)
        assert torch.equal(dequantize(source.read(f"{name}.weight")), want), name


WEIGHTS = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
DYNAMIC = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}


@pytest.mark.parametrize(
    ("group", "more", "reads"),
    [
        ({"weights": WEIGHTS, "input_activations": DYNAMIC}, {}, True),
        ({"weights": {**WEIGHTS, "strategy": "tensor"}, "input_activations": None}, {}, True),
        ({"weights": {**WEIGHTS, "strategy": "block"}}, {}, True),
        ({"weights": {**WEIGHTS, "num_bits": 4}}, {}, False),
        ({"weights": {**WEIGHTS, "type": "int"}}, {}, False),
        ({"weights": {**WEIGHTS, "strategy": "group"}}, {}, False),
        ({"weights": WEIGHTS, "input_activations": {**DYNAMIC, "dynamic": False}}, {}, False),
        ({"weights": WEIGHTS}, {"kv_cache_scheme": {"num_bits": 8}}, False),
        ({}, {}, False),
    ],
)
def test_which_configs_of_compressed_tensors_are_read(
    group: dict[str, object], more: dict[str, object], reads: bool
) -> None:
    given = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, **more}
    config = {"quantization_config": given, "a": 1}
    assert without_known_quantization(config, "here") == ({"a": 1} if reads else config)
    if reads:
        refuse_quantized(config, EMPTY, "here")
        return
    with pytest.raises(UnsupportedModel, match="compressed-tensors"):
        refuse_quantized(config, EMPTY, "here")


def test_pairs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for values, scales in (
        (torch.zeros(128, 130).to(torch.float8_e4m3fn), torch.ones(1, 2)),
        (torch.zeros(128, 128).to(torch.float8_e4m3fn), torch.ones(2, 1)),
        (torch.zeros(128, 128), torch.ones(1, 1)),
    ):
        save_file({"w": values, "w_scale_inv": scales}, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match="do not match"):
            joined(open_directory(tmp_path)[0])
    four = torch.zeros(2, 3, 1, 16, dtype=torch.uint8)
    save_file({"w_blocks": four, "w_scales": four.clone()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="do not match"):
        joined(open_directory(tmp_path)[0])


def test_other_blocks_and_other_methods() -> None:
    with pytest.raises(UnsupportedModel, match=r"\[64, 64\]"):
        without_known_quantization(
            {"quantization_config": {**FP8, "weight_block_size": [64, 64]}}, "here"
        )
    assert without_known_quantization({"quantization_config": FP8, "a": 1}, "here") == {"a": 1}
    other = {"quantization_config": {"quant_method": "gptq"}}
    assert without_known_quantization(other, "here") == other


def test_a_source_without_pairs_is_left_alone(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    source = open_directory(tmp_path)[0]
    assert joined(source) is source
    assert np.array_equal(source.read("w").data, source.view("w").data)
