"""What llama.cpp's own converter makes of tiny encoders gives what their safetensors files give.

Slow: its source (77 MB) comes through pip.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.names.encoders import ARCHITECTURES
from rbee_worker.config import Settings
from rbee_worker.loading.load import load_engine
from rbee_worker.session.text import open_text
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.types import Pool
from tests import rerankers
from tests.encoders import GEMMA, ROWS, Row, sentence_files, write, write_dense
from tests.llamacpp.files import converted
from tests.llamacpp.source import Unavailable, converter_source
from tests.test_encoders import run, submit, texts

pytestmark = pytest.mark.slow
IN_GGUF = [row for row in ROWS if row.gguf is not None]
RERANKER = "Qwen3-Reranker-0.1B"
DENSE = ((64, 96), (96, 64))  # llama.cpp wants the model's width at both ends


class Files(NamedTuple):
    """The checkpoints' folders, and what the converter said of each, by row."""

    work: Path
    said: Mapping[str, Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Every row converted, in one process of the converter's."""
    work = tmp_path_factory.mktemp("llamacpp")
    try:
        source = converter_source(work / "source")
    except Unavailable as why:
        pytest.skip(f"llama.cpp's converter cannot be had: {why}")
    jobs = []
    for row in IN_GGUF:
        maps = DENSE if row.gguf == GEMMA else ()
        own = {} if row.classes else sentence_files(way="cls_token", dense=len(maps))
        for number, sizes in enumerate(maps, 2):  # biases and activations have no name in GGUF
            layer = torch.nn.Linear(*sizes, bias=False)
            write_dense(work / row.id, number, layer, torch.nn.Identity())
        jobs.append((write(row, work / row.id, **own), work / f"{row.id}.gguf"))
    jobs.append((rerankers.write(work / RERANKER), work / f"{RERANKER}.gguf"))
    said = converted(source, jobs, work)
    ids = [*(row.id for row in IN_GGUF), RERANKER]
    return Files(work, {name: said[work / f"{name}.gguf"] for name in ids})


@pytest.mark.parametrize("row", IN_GGUF, ids=[row.id for row in IN_GGUF])
def test_a_converted_file_gives_the_same_vectors(row: Row, files: Files) -> None:
    assert files.said[row.id]["error"] is None, files.said[row.id]["error"]
    both = []
    for path in (files.work / row.id, files.work / f"{row.id}.gguf"):
        engine, info = load_engine(
            Settings(model=str(path), backend="cpu", threads=1), lambda _: None
        )
        assert not [note for note in info.notes if "nothing reads" in note], info.notes
        pool = Pool(how=info.purpose.pooling.how, head=bool(row.classes))
        for number, (ids, second) in enumerate(texts(row)):
            submit(engine, str(number), ids[: row.context], pool, second)
        both.append((run(engine), info))
    (ours, info), (theirs, found) = both
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert found.purpose.task == info.purpose.task
    assert found.purpose.labels == info.purpose.labels
    assert found.purpose.pooling.how == info.purpose.pooling.how
    dense = found.purpose.pooling.dense
    assert dense == info.purpose.pooling.dense == ((96, 64) if row.gguf == GEMMA else ())


def test_bert_gets_its_own_vocabulary(files: Files) -> None:
    assert files.said["bert"]["vocabulary"] == "its own"
    a, b = (
        load_tokenizer(open_checkpoint(str(files.work / name))) for name in ("bert", "bert.gguf")
    )
    for text in ("The bee hums. 日本", "", "[SEP] héllo", "thebeehum the"):
        assert a.encode(text) == b.encode(text)
        pair = "the bee?"
        assert a.encode_texts(text, pair, most=9) == b.encode_texts(text, pair, most=9)


def test_every_architecture_of_encoders_is_converted(files: Files) -> None:
    found = {
        open_checkpoint(str(files.work / f"{id}.gguf")).gguf.metadata["general.architecture"]  # type: ignore[union-attr]
        for id, said in files.said.items()
        if said["error"] is None
    }
    assert found == {*ARCHITECTURES, "qwen3"}


def test_a_converted_reranker_scores_as_its_card_says(files: Files) -> None:
    """The converter knows it by the folder's name.."""
    assert files.said[RERANKER]["error"] is None, files.said[RERANKER]["error"]
    ckpt = open_checkpoint(str(files.work / f"{RERANKER}.gguf"))
    query, document = "what do bees eat?", "bees eat nectar"
    pairs = open_text(ckpt).pairs
    assert pairs is not None
    prompt, *_ = pairs.written(query, document, None)
    ids = rerankers.opened(files.work / RERANKER)[1].encode(prompt)
    engine, info = load_engine(Settings(model=str(ckpt.path), threads=1), lambda _: None)
    submit(engine, "pair", ids, Pool(how="last", head=True))
    yes, no = run(engine)["pair"]
    assert info.purpose.pairs is not None
    assert info.purpose.labels == ("yes", "no")
    want = rerankers.by_model_card(files.work / RERANKER, query, document)
    assert abs(1 / (1 + np.exp(np.float64(no) - yes)) - want) < 1e-5
