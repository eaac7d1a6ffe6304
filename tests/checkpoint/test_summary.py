"""Counts of what a checkpoint holds, and what opening one imports."""

import subprocess
import sys

import torch
from safetensors.torch import save_file

from rbee_worker.checkpoint.safetensors import open_directory
from rbee_worker.checkpoint.summary import FormatUse, Summary, summarize


def test_summary(tmp_path):
    tensors = {
        "a": torch.zeros(4, 8, dtype=torch.bfloat16),
        "b": torch.zeros(3, dtype=torch.float32),
        "c": torch.zeros(2, 2, dtype=torch.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    source, _ = open_directory(tmp_path)
    assert summarize(source) == Summary(
        formats=(FormatUse("BF16", 1, 32, 64), FormatUse("F32", 2, 7, 28)),
        tensors=3,
        values=39,
        nbytes=92,
    )


def test_opening_a_checkpoint_imports_no_heavy_library():
    code = "import rbee_worker.checkpoint, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "huggingface_hub", "transformers"} & {*run.stdout.split()}
