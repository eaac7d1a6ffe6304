"""What llama.cpp's own converter makes of the tiny checkpoints equals transformers.

`tests/test_archs.py` writes GGUF files by what we know of the converter; here it speaks for itself.
Slow: its source (77 MB) comes through pip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.names import GGUF_ARCHITECTURES, encoders, pairs
from rbee_worker.errors import ModelError
from rbee_worker.models import build_model
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.verify.compare import relative_error
from tests.archs import ARCHS, Arch, oracle
from tests.driver import Driver
from tests.llamacpp.files import as_published, converted, write_with_tokenizer
from tests.llamacpp.source import Unavailable, converter_source
from tests.prompts import random_prompt

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4
WINDOW = "the family's files have no key for a window"
PATTERN = "the family's files have one pattern of layers"
INNER = "the recurrence has twice the columns of the model"
ABSENT = "llama.cpp has no such family"
# Rows whose files cannot say what the row is: the converter fails, or leaves it out.
CANNOT: Mapping[str, str] = {
    "llama-dynamic": "dynamic scaling is left out",
    "mistral-window": WINDOW,
    "qwen2-window": WINDOW,
    "qwen3-bias-window": WINDOW,
    "gemma2-scalar": "scores are scaled by a head's width, layers alternate",
    "gemma-mqa": "linear scaling is left out",
    "gemma3-types": PATTERN,
    "gemma3-with-images": PATTERN,
    "smollm3-window": PATTERN,
    "helium": ABSENT,
    "helium-gqa": ABSENT,
    "persimmon": ABSENT,
    "persimmon-no-norm": ABSENT,
    "phi": "as many heads of keys as of queries, an MLP of four widths",
    "phi-qk-norm": "norms of q and k have no name",
    "phimoe": "the converter wants LongRoPE",
    "phimoe-short": "one magnitude, which the converter computes, and one jitter",
    "glm-ratio": "the width of a head is left out",
    "chatglm-ratio": "the width of a head is left out",
    "stablelm2-12b": "the converter loses norms of heads",
    "starcoder2-window": WINDOW,
    "falcon-rw": "attention and MLP stand side by side",
    "falcon-alibi-mqa": "ALiBi is left out, an MLP has four widths",
    "mpt-clip-heads": "softmax_scale is left out",
    "bigcode-mha": "one head of keys",
    "nemotron-head-dim": "columns that rotate are counted of hidden_size / heads",
    "mixtral-window": WINDOW,
    "qwen2-moe-mixed": "every layer is a mixture",
    "qwen2-moe-window": WINDOW,
    "qwen3-moe-window": WINDOW,
    "qwen3-next-mixed": "every layer is a mixture",
    "dots1-groups-window": WINDOW,
    "olmoe-bias-tied": "weights of experts are not normalised",
    "deepseek-v3-one-group": "rotary pairs are neighbours",
    "llama4-chunks": "chunks and layers without positions are those of the published sizes",
    "llama4-no-norm-with-images": PATTERN,
    "falcon-h1-norm-first": "norms follow the gate, and the converter fails at biases",
    "lfm2-biases": "the converter fails at the bias of a convolution",
    "lfm2-moe-plain": "a head that is not tied has no name",
    "granite4-rotary": "a layer with attention beside recurrent ones has no positions",
    "mamba-biases": INNER,
    "falcon-mamba-inner": INNER,
    "based": ABSENT,
    "based-sizes": ABSENT,
    "recurrent-gemma": ABSENT,
    "recurrent-gemma-order": ABSENT,
    "rwkv5": ABSENT,
    "rwkv5-sizes": ABSENT,
    "rwkv6-sizes": "heads have as many columns as the model",
    "rwkv7-ranks": "norms have biases, the first one is there",
}
# Rows in the names of a model's own code, which published files of the family do not have any more.
WITHOUT_NAME = {"phi-msft", "mixformer"}


@dataclass(frozen=True)
class Files:
    """What the converter wrote of each row, and what it said, by row."""

    paths: Mapping[str, Path]
    said: Mapping[str, Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Every row converted, in one process of the converter's."""
    work = tmp_path_factory.mktemp("llamacpp")
    try:
        source = converter_source(work / "source")
    except Unavailable as why:
        pytest.skip(f"llama.cpp's converter cannot be had: {why}")
    paths = {a.id: work / f"{a.id}.gguf" for a in ARCHS}
    jobs = []
    for arch in ARCHS:
        folder = write_with_tokenizer(arch, work / arch.id)
        if as_published(arch, folder):
            jobs.append((folder, paths[arch.id]))
        else:
            assert arch.id in WITHOUT_NAME
    said = converted(source, jobs, work)
    return Files(paths, {id: said[path] for id, path in paths.items() if path in said})


@pytest.mark.parametrize("arch", ARCHS, ids=[a.id for a in ARCHS])
def test_a_converted_file_equals_transformers(arch: Arch, files: Files) -> None:
    """Or the row is one that such a file cannot be, which is shown as well."""
    if arch.id in WITHOUT_NAME:
        return
    said = files.said[arch.id]
    if arch.id in CANNOT:
        assert said["error"] or not equal(arch, files.paths[arch.id]), "CANNOT has it, but it can"
        return
    assert said["error"] is None, said["error"]
    ckpt = open_checkpoint(str(files.paths[arch.id]))
    model = build_model(ckpt, ReferenceOps("cpu", "f32"))
    assert ckpt.notes == model.notes == ()  # every key and every tensor has been read
    assert equal(arch, files.paths[arch.id])


def equal(arch: Arch, path: Path) -> bool:
    """Are the logits of 70 tokens transformers'? False for a file that is refused."""
    try:
        model = build_model(open_checkpoint(str(path)), ReferenceOps("cpu", "f32"))
    except ModelError:
        return False
    driver, tokens = Driver(model), random_prompt(arch.prompt)
    (got,) = driver.feed([(driver.start(tokens), len(tokens))])
    with torch.inference_mode():
        want = oracle(arch)(torch.tensor([tokens])).logits[0]
    return relative_error(got, want) < TOLERANCE


def test_every_architecture_of_gguf_is_converted(files: Files) -> None:
    found = {
        open_checkpoint(str(files.paths[id])).gguf.metadata["general.architecture"]  # type: ignore[union-attr]
        for id, said in files.said.items()
        if said["error"] is None and id not in CANNOT
    }
    # test_llamacpp_encoders.py and engine/test_pairs.py have these
    elsewhere = {*encoders.ARCHITECTURES, *pairs.ARCHITECTURES}
    assert set(GGUF_ARCHITECTURES) - found == elsewhere
