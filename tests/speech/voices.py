"""Tiny speaker encoders with random weights as torch has them, their files, and clips."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

WIDTH, LAYERS, BANDS = 20, 3, 40


class Encoder(nn.Module):
    """As the authors' module: LSTM layers, a linear map."""

    def __init__(self, size: int) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.lstm = nn.LSTM(BANDS, WIDTH, LAYERS, batch_first=True)
        self.linear = nn.Linear(WIDTH, size)
        with torch.no_grad():
            for value in self.parameters():
                value.mul_(2.0)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.lstm(frames)
        raw = self.linear(hidden[-1]).relu()
        made: torch.Tensor = raw / raw.norm(dim=1, keepdim=True)
        return made


def write(folder: Path, size: int = 24, *, candle: bool = False) -> Path:
    """speaker_encoder.safetensors. candle: with a module for each layer."""
    path = folder / "speaker_encoder.safetensors"
    state = Encoder(size).state_dict()
    if candle:
        state = {
            key.replace("lstm.", f"lstm.{key[-1]}.") if "lstm" in key else key: value
            for key, value in state.items()
        }
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def tone(seconds: float, rate: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Something like a voice: harmonics whose loudness changes, from -1 to 1."""
    at, rng = np.arange(int(seconds * rate)) / rate, np.random.default_rng(seed)
    pitch = 110 + 30 * seed
    found = sum(
        rng.uniform(0.2, 1) / n * np.sin(2 * np.pi * pitch * n * at + rng.uniform(0, 6))
        for n in range(1, 12)
    )
    return 0.25 * found * (1 + 0.5 * np.sin(2 * np.pi * 2.3 * at))


def clip(samples: np.ndarray[Any, Any], rate: int, width: int = 2, channels: int = 1) -> bytes:
    """A WAV file; every channel has the same."""
    scaled = np.repeat(samples[:, None], channels, axis=1).reshape(-1) * (2 ** (8 * width - 1) - 1)
    if width == 1:
        raw = (np.rint(scaled) + 128).astype(np.uint8).tobytes()
    elif width == 3:
        raw = np.rint(scaled).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    else:
        raw = np.rint(scaled).astype(f"<i{width}").tobytes()
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw)
    return target.getvalue()
