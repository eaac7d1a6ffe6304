"""A tiny EnCodec of transformers' with random weights, and its files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import EncodecConfig, EncodecModel

SHAPES: dict[str, dict[str, Any]] = {
    # 24 kHz's own shape, in small; a frame is 40 samples
    "small": {"num_filters": 4, "hidden_size": 16, "upsampling_ratios": [5, 4, 2]},
    # other kernels, two dilated residual blocks, no maps beside them, zeros before the beginning
    "other": {
        "num_filters": 3,
        "hidden_size": 12,
        "upsampling_ratios": [4, 3],
        "kernel_size": 5,
        "last_kernel_size": 3,
        "num_residual_layers": 2,
        "dilation_growth_rate": 3,
        "compress": 3,
        "num_lstm_layers": 1,
        "use_conv_shortcut": False,
        "pad_mode": "constant",
    },
}


@cache
def oracle(name: str) -> Any:
    torch.manual_seed(4)
    model: Any = EncodecModel(EncodecConfig(target_bandwidths=[200.0], **SHAPES[name])).eval()
    with torch.no_grad():
        for layer in model.quantizer.layers:
            layer.codebook.embed.normal_()
        for key, value in model.decoder.named_parameters():
            value.mul_(0.5) if "lstm" in key else value.mul_(1.3)
    return model


def sound(name: str, codes: torch.Tensor) -> Any:
    """transformers' samples float64 [frames * hop] of codes [books, frames]."""
    with torch.inference_mode():
        found = oracle(name).double().decode(codes[None, None], [None])[0]
    oracle(name).float()
    return found[0, 0].numpy()


def write(folder: Path, name: str = "small") -> Path:
    oracle(name).save_pretrained(folder)
    return folder
