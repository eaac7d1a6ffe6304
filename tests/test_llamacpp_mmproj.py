"""What llama.cpp's own converter makes of tiny towers gives the features of the safetensors files.

`tests/mmproj.py` writes such files by what we know of the converter; here it speaks for itself.
Slow: its source (77 MB) comes through pip.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.models import build_model
from rbee_worker.ops.reference.model import ReferenceModel
from rbee_worker.ops.reference.ops import ReferenceOps
from tests import mmproj, seeing
from tests.llamacpp.source import Unavailable, converter_source

pytestmark = pytest.mark.slow
MEAN = [0.4, 0.5, 0.6]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return converter_source(tmp_path_factory.mktemp("llamacpp"))
    except Unavailable as why:
        pytest.skip(f"llama.cpp's converter cannot be had: {why}")


def published(name: str, folder: Path) -> Path:
    """A checkpoint as published ones are: the tower's names are one level deeper than transformers
    writes them today."""
    seeing.write(name, folder)
    said = {"image_mean": MEAN, "image_std": [0.5] * 3, "image_seq_length": 16}
    said |= {"size": {"longest_edge": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    at = folder / "model.safetensors"
    old, new = "vision_tower.", "vision_tower.vision_model."
    tensors = {key.replace(old, new): tensor for key, tensor in load_file(at).items()}
    save_file(tensors, at, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("name", ["smolvlm", "gemma3", "gemma3-near"])
def test_the_converters_file_gives_the_same_features(
    name: str, source: Path, tmp_path: Path
) -> None:
    text, ours = mmproj.write(name, tmp_path)
    ours.unlink()
    whole = published(name, tmp_path / "whole")
    file = tmp_path / "mmproj-converted.gguf"
    done = subprocess.run(
        [
            *(sys.executable, str(source / "convert_hf_to_gguf.py"), "--mmproj"),
            *("--outtype", "f32", "--outfile", str(file), str(whole)),
        ],
        env={**os.environ, "PYTHONPATH": str(source / "gguf-py")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert file.is_file(), done.stderr[-2000:]
    found = []
    for path in (text, whole):
        model = ReferenceModel(build_model(open_checkpoint(str(path)), ReferenceOps()))
        assert model.decoder.tower is not None
        assert model.decoder.tower.mean == pytest.approx(MEAN)
        found.append(model.see(seeing.pixels(name, 1, 3)[0]).numpy())
    # input_projection of Gemma 3 is in f16 whatever the others are
    bound = 2e-3 if "gemma3" in name else 0.0
    difference = np.linalg.norm(found[0] - found[1]) / np.linalg.norm(found[1])
    assert difference <= bound
