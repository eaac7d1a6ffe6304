"""Tiny encoders through engine and HTTP: the official OpenAI client and transformers agree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import openai
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rbee_worker.session.client import EngineClient
from rbee_worker.verify.compare import relative_error
from tests import encoders
from tests.encoders import ROWS, Row, hidden, scores, sentence_files, write
from tests.server.served import Served

BY_ID = {row.id: row for row in ROWS}
TEXTS = ["the bee", "a b c d", "x " * 100, "hum 日 zoo.", "q"] * 9
BOUND = 1e-5


def served(row: Row, folder: Path, **files: object) -> Served:
    path = write(row, folder / row.id, **files)
    start = partial(EngineClient.start, in_process=True)
    return Served(start=start, model=str(path), backend="cpu", threads=1, max_seqs=8, max_queue=8)


def tokenizer(folder: Path, row: Row) -> PreTrainedTokenizerFast:
    made: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder / row.id)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture(scope="module")
def bert(folder: Path) -> Iterator[Served]:
    files = {
        **sentence_files(longest=120),
        "config_sentence_transformers": {
            "prompts": {"query": "the bee "},
            "default_prompt_name": None,
        },
    }
    with served(BY_ID["bert"], folder, **files) as server:
        yield server


def wanted(row: Row, ids: list[int]) -> np.ndarray:
    """As sentence-transformers: the mean, of length 1."""
    mean = hidden(row, ids).double().mean(0)
    vector: np.ndarray = (mean / mean.norm()).numpy()
    return vector


def test_the_official_client_gets_what_transformers_computes(bert: Served, folder: Path) -> None:
    """More texts than the worker holds at a time, as texts, ids, numbers and base64."""
    row, hf = BY_ID["bert"], tokenizer(folder, BY_ID["bert"])
    client = openai.OpenAI(base_url=f"{bert.url}/v1", api_key=bert.token, max_retries=0)
    bert.others.append(client)
    model = client.models.list().data[0].id
    ids = [hf(text)["input_ids"] for text in TEXTS]
    numbers = client.embeddings.create(model=model, input=TEXTS, encoding_format="float")
    packed = client.embeddings.create(model=model, input=TEXTS)
    given = client.embeddings.create(model=model, input=ids)
    assert numbers.usage.prompt_tokens == sum(map(len, ids))
    for a, b, c, one in zip(numbers.data, packed.data, given.data, ids, strict=True):
        assert relative_error(a.embedding, wanted(row, one)) < BOUND
        assert np.array_equal(np.float32(a.embedding), np.float32(b.embedding))
        assert np.array_equal(np.float32(a.embedding), np.float32(c.embedding))
    cut = client.embeddings.create(model=model, input="a b", dimensions=5).data[0].embedding
    want = wanted(row, hf("a b")["input_ids"])[:5]
    assert relative_error(cut, want / np.linalg.norm(want)) < BOUND


def test_prompts_and_truncation(bert: Served, folder: Path) -> None:
    row, hf = BY_ID["bert"], tokenizer(folder, BY_ID["bert"])
    body = {"input": ["a b", "x " * 300], "prompt_name": "query"}
    error = bert.http.post("/v1/embeddings", json=body).json()["error"]
    assert error["param"] == "input[1]"
    assert "has 304 tokens and the limit is 120; truncate: true cuts it" in error["message"]
    told = bert.http.post("/v1/embeddings", json={**body, "truncate": True}).json()
    assert told["rbee"]["warnings"] == ["input[1]: cut from 304 to 120 tokens"]
    assert told["rbee"]["prompt"] == "query"
    assert told["rbee"]["normalized"] is True
    for found, text in zip(told["data"], body["input"], strict=True):
        ids = hf(f"the bee {text}", truncation=True, max_length=120)["input_ids"]
        assert relative_error(found["embedding"], wanted(row, ids)) < BOUND


def test_texts_of_any_length_are_cut(bert: Served) -> None:
    """More characters than a prompt may have; of white space, which gives no tokens, as many."""
    texts = ["x " * 200, "x " * 50_000, " " * 50_000 + "x " * 200]
    told = bert.http.post("/v1/embeddings", json={"input": texts, "truncate": True}).json()
    assert told["rbee"]["warnings"] == [
        "input[0]: cut from 202 to 120 tokens",
        "input[1]: cut from 2050 tokens and 95904 characters to 120 tokens",
        "input[2]: cut from 202 to 120 tokens",
    ]
    first, *rest = (one["embedding"] for one in told["data"])
    assert rest == [first, first]
    ids = {"input": [[2] + [28] * 300], "truncate": True}  # more than the context
    assert bert.http.post("/v1/embeddings", json=ids).json()["usage"]["prompt_tokens"] == 120
    long = {"content": texts[1]}
    assert bert.http.post("/embedding", json=long).status_code == 400
    [row] = bert.http.post("/embedding", json={**long, "truncate": True}).json()
    assert row["embedding"] == [first]
    ids["truncate"] = False
    assert bert.http.post("/v1/embeddings", json=ids).status_code == 400


def test_a_cross_encoders_own_file_says_what_its_score_goes_through(folder: Path) -> None:
    """config_sentence_transformers.json of version 6, before what config.json says."""
    row = BY_ID["bert-one-class"]
    said = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}
    with served(row, folder / "own", config_sentence_transformers=said) as server:
        told = server.http.post("/v1/score", json={"text_1": "the bee?", "text_2": "a b c"}).json()
    pair = tokenizer(folder / "own", row)("the bee?", "a b c", return_token_type_ids=True)
    [raw] = scores(row, pair["input_ids"], pair["token_type_ids"].index(1)).tolist()
    assert abs(told["data"][0]["score"] - raw) < BOUND
    assert told["rbee"]["method"] == "cross-encoder, none"


@pytest.mark.parametrize(
    "name", ["bert-one-class", "xlm-roberta-one-class", "modernbert-mean-classes"]
)
def test_pairs_are_scored_as_by_transformers(name: str, folder: Path) -> None:
    row = BY_ID[name]
    documents = ["a b c", "the hum", "x " * 90, "日 q"]
    with served(row, folder) as server:
        told = server.http.post("/v1/rerank", json={"query": "the bee?", "documents": documents})
        assert told.status_code == 200, told.text
        results = told.json()["results"]
        pairs = server.http.post("/v1/score", json={"text_1": "the bee?", "text_2": documents})
    made = AutoTokenizer.from_pretrained(folder / row.id)
    want = []
    for document in documents:
        pair = made("the bee?", document, return_token_type_ids=True)
        kinds = pair["token_type_ids"]
        second = kinds.index(1) if 1 in kinds else 0
        [raw] = scores(row, pair["input_ids"], second).tolist()
        want.append(1 / (1 + math.exp(-raw)))
    got = {one["index"]: one["relevance_score"] for one in results}
    assert [one["index"] for one in results] == sorted(got, key=lambda n: -want[n])
    for n, value in enumerate(want):
        assert abs(got[n] - value) < BOUND
        assert pairs.json()["data"][n]["score"] == got[n]


def test_classes_are_those_of_transformers(folder: Path) -> None:
    row = BY_ID["modernbert-classes"]
    with served(row, folder) as server:
        told = server.http.post("/v1/classify", json={"input": TEXTS[:5]}).json()
    hf = tokenizer(folder, row)
    assert told["labels"] == [f"LABEL_{n}" for n in range(4)]
    for found, text in zip(told["data"], TEXTS, strict=False):
        want = torch.softmax(scores(row, hf(text)["input_ids"]).double(), 0)
        assert np.abs(np.array(found["probs"]) - want.numpy()).max() < BOUND
        assert found["label"] == f"LABEL_{int(want.argmax())}"


def test_the_vocabulary_of_rows_is_checked(bert: Served) -> None:
    """The model has rows without tokens: any id below that is one."""
    assert len(encoders.WORDS) < encoders.VOCAB
    assert bert.http.post("/v1/embeddings", json={"input": [encoders.VOCAB]}).status_code == 400
