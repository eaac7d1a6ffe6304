"""Recognizes checkpoints that this worker cannot load, and says what they are: weights quantized by
another library, an adapter, an export for another runtime, a git-lfs pointer.

Calling such a file damaged would only make the user download it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rbee_worker.checkpoint.formats import TensorSource
from rbee_worker.checkpoint.reading import read_json
from rbee_worker.checkpoint.scaled import has_8_bit_weights
from rbee_worker.errors import UnsupportedModel

_PLAIN = "use the model's plain safetensors version, or a .gguf file of it"

# `quant_method` of a quantization_config -> the library or format that uses it.
METHODS: Mapping[str, str] = MappingProxyType(
    {
        "aqlm": "AQLM",
        "auto-round": "AutoRound",
        "awq": "AWQ",
        "bitnet": "BitNet",
        "bitsandbytes": "bitsandbytes",
        "compressed-tensors": "compressed-tensors",
        "eetq": "EETQ",
        "exl2": "ExLlamaV2",
        "exl3": "ExLlamaV3",
        "fbgemm_fp8": "FBGEMM",
        "fouroversix": "Four Over Six",
        "fp8": "8-bit floats",
        "fp_quant": "FP-Quant",
        "gemma": "Gemma's own quantization",
        "gguf": "GGUF",
        "gptq": "GPTQ",
        "higgs": "HIGGS",
        "hqq": "HQQ",
        "metal": "Metal",
        "modelopt": "NVIDIA ModelOpt",
        "mxfp4": "MXFP4",
        "mxfp8": "MXFP8",
        "nvfp4": "NVFP4",
        "quanto": "Quanto",
        "quark": "AMD Quark",
        "sinq": "SINQ",
        "spqr": "SpQR",
        "torchao": "torchao",
        "vptq": "VPTQ",
    }
)
# Suffixes of tensor names that occur in quantized checkpoints only.
_TELLTALES = (
    (".qzeros", "GPTQ or AWQ"),
    (".g_idx", "GPTQ"),
    (".quant_state.bitsandbytes__nf4", "bitsandbytes"),
    (".quant_state.bitsandbytes__fp4", "bitsandbytes"),
    (".absmax", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".weight_packed", "compressed-tensors"),
    (".weight_scale_2", "NVIDIA ModelOpt"),
)
# Files that, where there are no other weights, mean another kind of model -> what it is, the fix.
_FILES = (
    ("*.onnx", "an ONNX export", _PLAIN),
    ("model_index.json", "a diffusers pipeline: it makes images, not text", "use a text model"),
    ("consolidated*.pth", "Meta's own format, pickled", _PLAIN),
    ("params.json", "Mistral's or Meta's own format", "use the version made for transformers"),
    ("tf_model.h5", "TensorFlow weights", _PLAIN),
    ("flax_model.msgpack", "Flax weights", _PLAIN),
    ("*.nemo", "a NeMo archive", _PLAIN),
    ("openvino_model.xml", "an OpenVINO export", _PLAIN),
    ("*.mlpackage", "a Core ML export", _PLAIN),
)
_ADAPTER = "adapter_config.json"

# `general.type` or `general.architecture` of GGUF files that are not models.
_GGUF = {
    "adapter": ("a LoRA adapter", "give its base as the model, and it with --lora NAME=PATH"),
    "mmproj": ("an image encoder (mmproj)", "give the .gguf file of the text model"),
    "clip": ("an image encoder (mmproj)", "give the .gguf file of the text model"),
    "imatrix": ("an importance matrix", "give the .gguf file of the model"),
    "vocab": ("a vocabulary without weights", "give the .gguf file of the model"),
}


def refuse_directory(path: Path) -> None:
    """Raise UnsupportedModel for a directory that holds something other than a model."""
    weights = [f for f in path.glob("*.safetensors") if not f.name.startswith("consolidated")]
    adapter = path / _ADAPTER
    if adapter.is_file() and not any(not f.name.startswith("adapter") for f in weights):
        base = str(read_json(adapter).get("base_model_name_or_path") or "")[:80]
        of = f" of {base!r}" if base else ""
        raise UnsupportedModel(
            f"{path}: a LoRA adapter{of}, not a model.",
            fix="give its base as the model, and the adapter with --lora NAME=PATH",
        )
    if weights or list(path.glob("*.gguf")) or list(path.glob("*.bin")):
        return
    for pattern, what, fix in _FILES:
        if any(path.glob(pattern)):
            raise UnsupportedModel(f"{path}: {what}, which cannot be loaded.", fix=fix)


def refuse_quantized(config: Mapping[str, Any], source: TensorSource, where: str) -> None:
    """Raise UnsupportedModel for weights that another library has quantized.

    The formats that `scaled` reads pass: `scaled` checks them itself.
    """
    given = config.get("quantization_config") or config.get("compression_config")
    if isinstance(given, dict):
        method = str(given.get("quant_method") or given.get("quant_library") or "")
        if method in ("fp8", "mxfp4") or has_8_bit_weights(given):
            return
        raise _quantized(where, METHODS.get(method, f"{method[:40]!r}"), given)
    simple = config.get("quantization")
    if isinstance(simple, dict) and "group_size" in simple:
        raise _quantized(where, "MLX", simple)
    if Path(where, "hf_quant_config.json").is_file():
        raise _quantized(where, "NVIDIA ModelOpt", {})
    for name in source.names():
        for end, library in _TELLTALES:
            if name.endswith(end):
                raise _quantized(where, library, {})


def refuse_gguf(metadata: Mapping[str, Any], where: str) -> None:
    """Raise UnsupportedModel for a GGUF file that is only a part of a model, or no model at all."""
    for key in ("general.type", "general.architecture"):
        found = metadata.get(key)
        if isinstance(found, str) and found in _GGUF:
            what, fix = _GGUF[found]
            raise UnsupportedModel(f"{where}: {what}, not a model.", fix=fix)


def _quantized(where: str, library: str, given: Mapping[str, Any]) -> UnsupportedModel:
    bits = given.get("bits") or given.get("num_bits")
    if not bits:
        four, eight = given.get("load_in_4bit"), given.get("load_in_8bit")
        bits = 4 if four else 8 if eight else None
    how = f" ({bits} bits)" if isinstance(bits, int) else ""
    return UnsupportedModel(
        f"{where}: its weights are quantized by {library}{how}, which cannot be read.", fix=_PLAIN
    )
