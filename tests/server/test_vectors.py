"""The routes that give vectors and scores: their forms, their limits, and what they refuse."""

from __future__ import annotations

import base64
import math
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from msgspec.structs import replace

from rbee_worker.checkpoint.sentence import Sentence
from rbee_worker.model_info import PairScore, Pooling, Purpose, Similarity
from tests.server.fake_engine import DIMENSIONS, Fake
from tests.server.served import Served, wait_for

ENCODER = Purpose(
    task="embed",
    pooling=Pooling(how="mean", origin="1_Pooling/config.json", dense=(96, DIMENSIONS)),
)
PROMPTS = Sentence(prompts={"query": "Q: ", "passage": "P: "}, prompt="")
CLASSES = Purpose(
    task="classify", pooling=Pooling(how="cls"), labels=("no", "yes"), activation="softmax"
)
ONE_CLASS = Purpose(
    task="classify",
    pooling=Pooling(how="cls"),
    labels=("fits",),
    activation="sigmoid",
    pairs=PairScore(by="classes", origin="the model's head", activation="sigmoid"),
)


@pytest.fixture(scope="module")
def encoder() -> Iterator[Served]:
    with Served(Fake(purpose=ENCODER, sentence=PROMPTS)) as server:
        yield server


@pytest.fixture(scope="module")
def classifier() -> Iterator[Served]:
    with Served(Fake(purpose=CLASSES)) as server:
        yield server


@pytest.fixture(scope="module")
def cross() -> Iterator[Served]:
    with Served(Fake(purpose=ONE_CLASS)) as server:
        yield server


@pytest.fixture
def client(encoder: Served) -> openai.OpenAI:
    client = openai.OpenAI(base_url=f"{encoder.url}/v1", api_key=encoder.token, max_retries=0)
    encoder.others.append(client)
    return client


def post(server: Served, path: str, **body: Any) -> dict[str, Any]:
    response = server.http.post(path, json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def refused(server: Served, path: str, status: int = 400, **body: Any) -> dict[str, Any]:
    response = server.http.post(path, json=body)
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert len(error["message"]) <= 300
    return error


def vector(encoder: Served, text: str, **more: Any) -> list[float]:
    found: list[float] = post(encoder, "/v1/embeddings", input=text, **more)["data"][0]["embedding"]
    return found


# ---- /v1/embeddings


def test_the_official_client_reads_numbers_and_base64(client: openai.OpenAI) -> None:
    """Without a format it asks for base64 and turns that into numbers itself."""
    texts = ["one", "two", "drei"]
    told = client.embeddings.create(model="smollm2", input=texts, encoding_format="float")
    plain = client.embeddings.create(model="smollm2", input=texts)
    assert [row.index for row in told.data] == [0, 1, 2]
    assert told.usage.prompt_tokens == told.usage.total_tokens == sum(map(len, texts))
    assert told.model == "smollm2"
    for a, b in zip(told.data, plain.data, strict=True):
        assert len(a.embedding) == DIMENSIONS
        assert np.array_equal(np.float32(a.embedding), np.float32(b.embedding))


def test_every_form_of_input(encoder: Served) -> None:
    one = vector(encoder, "ab")
    ids = list(b"ab")
    for given, count in (
        ("ab", 1),
        (["ab"], 1),
        (["ab", "ab", "ab"], 3),
        (ids, 1),
        ([ids], 1),
        ([ids, ids], 2),
    ):
        rows = post(encoder, "/v1/embeddings", input=given)["data"]
        assert [row["embedding"] for row in rows] == [one] * count


def test_base64_is_float32_little_endian(encoder: Served) -> None:
    want = vector(encoder, "ab")
    packed = post(encoder, "/v1/embeddings", input="ab", encoding_format="base64")
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert list(struct.unpack(f"<{DIMENSIONS}f", raw)) == want


def test_dimensions(encoder: Served) -> None:
    assert vector(encoder, "ab", dimensions=3) == vector(encoder, "ab")[:3]
    error = refused(encoder, "/v1/embeddings", input="ab", dimensions=DIMENSIONS + 1)
    assert error["param"] == "dimensions"
    assert refused(encoder, "/v1/embeddings", input="ab", dimensions=0)["param"] == "dimensions"


def test_prompts_are_put_before_texts_and_told(encoder: Served) -> None:
    named = post(encoder, "/v1/embeddings", input="ab", prompt_name="query")
    assert named["data"][0]["embedding"] == vector(encoder, "Q: ab")
    assert named["rbee"] == {
        "pooling": "mean",
        "normalized": False,
        "origin": "1_Pooling/config.json",
        "dense": [96, DIMENSIONS],
        "prompt": "query",
    }
    assert "prompt" not in post(encoder, "/v1/embeddings", input="ab")["rbee"]
    error = refused(encoder, "/v1/embeddings", input="ab", prompt_name="nothing")
    assert "(passage, query)" in error["message"]
    error = refused(encoder, "/v1/embeddings", input=[1, 2], prompt_name="query")
    assert "cannot be put before ids" in error["message"]


def test_a_default_prompt_is_applied() -> None:
    sentence = Sentence(prompts=PROMPTS.prompts, prompt="passage")
    with Served(Fake(purpose=ENCODER, sentence=sentence)) as server:
        told = post(server, "/v1/embeddings", input="ab")
        assert told["rbee"]["prompt"] == "passage"
        assert told["data"][0]["embedding"] == vector(server, "P: ab", prompt_name="")
        assert told["data"][0]["embedding"] != vector(server, "ab", prompt_name="")
        assert "prompt" not in post(server, "/v1/embeddings", input=[1, 2])["rbee"]
        assert refused(server, "/v1/embeddings", input=["a", ""])["param"] == "input[1]"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ("", "input"),
        ([], "input"),
        (["a", ""], "input[1]"),
        ([[1], []], "input[1]"),
        (["a", 1], "input"),
        ([[1], [999]], "input[1]"),
        ([1, 999], "input"),
        (7, "input"),
        (None, "input"),
        (["a"] * 2049, "input"),
        (["a", "b" * 70000], "input[1]"),
    ],
)
def test_faulty_input_is_named(encoder: Served, given: Any, field: str) -> None:
    error = refused(encoder, "/v1/embeddings", input=given)
    assert error["param"] == field
    assert error["code"] == "invalid_request"


def test_more_texts_than_the_worker_holds_are_computed_in_turn() -> None:
    """At most half of the places are taken, so that others still find one."""
    hold = threading.Event()
    with Served(Fake(purpose=ENCODER, slots=4, delay_s=0.001), max_queue=4, max_seqs=4) as server:
        texts = [f"text {n}" for n in range(100)]
        rows = post(server, "/v1/embeddings", input=texts)["data"]
        for n in (0, 50, 99):
            assert rows[n]["embedding"] == vector(server, texts[n])
        assert [row["index"] for row in rows] == [*range(100)]
        assert server.engine.held == 0
    hold.set()


def test_a_client_that_leaves_cancels_its_texts() -> None:
    with Served(Fake(purpose=ENCODER, delay_s=30)) as server:
        with pytest.raises(Exception, match="timed out"):
            server.http.post("/v1/embeddings", json={"input": ["a"] * 20}, timeout=0.5)
        wait_for(lambda: server.engine.held == 0)


def test_a_time_limit_ends_a_text(encoder: Served) -> None:
    with Served(Fake(purpose=ENCODER, slots=1, delay_s=30)) as server:
        first = threading.Thread(
            target=lambda: server.http.post("/v1/embeddings", json={"input": "a", "timeout_s": 60})
        )
        first.start()
        wait_for(lambda: server.engine.held > 0)
        error = refused(server, "/v1/embeddings", 408, input="b", timeout_s=0.1)
        assert error["code"] == "timeout"
        server.call(server.engine.close())
        first.join()


# ---- what a model is for


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/jobs", {"prompt": "x"}),
        ("/v1/infer", {"prompt": "x"}),
        ("/v1/classify", {"input": "x"}),
    ],
)
def test_an_encoder_refuses_what_it_cannot_do(
    encoder: Served, path: str, body: dict[str, Any]
) -> None:
    error = refused(encoder, path, **body)
    assert error["code"] == "wrong_model"
    assert "it gives vectors, for /v1/embeddings" in error["message"]


def test_a_classifier_gives_no_vectors_and_no_text(classifier: Served) -> None:
    for path, body in (("/v1/embeddings", {"input": "x"}), ("/v1/infer", {"prompt": "x"})):
        error = refused(classifier, path, **body)
        assert error["code"] == "wrong_model"
        assert "it classifies texts, for /v1/classify" in error["message"]
    error = refused(classifier, "/v1/score", text_1="x", text_2="y")
    assert "has 2 classes, and a score is that of one" in error["message"]


def test_a_model_that_generates_gives_vectors_too(served: Served) -> None:
    told = post(served, "/v1/embeddings", input="ab")
    assert told["rbee"]["pooling"] == "last"
    assert math.isclose(math.hypot(*told["data"][0]["embedding"]), 1, abs_tol=1e-6)
    assert refused(served, "/v1/classify", input="x")["code"] == "wrong_model"
    [warning] = post(served, "/v1/rerank", query="q", documents=["d"])["rbee"]["warnings"]
    assert warning.startswith("no file of this model says that it makes vectors")


def test_models_and_info_say_what_for(encoder: Served, classifier: Served, served: Served) -> None:
    for server, task in ((encoder, "embed"), (classifier, "classify"), (served, "generate")):
        assert server.http.get("/v1/models").json()["data"][0]["task"] == task
        assert server.http.get("/info").json()["purpose"]["task"] == task
    told = encoder.http.get("/info").json()
    assert told["purpose"]["pooling"]["how"] == "mean"
    assert told["dimensions"] == DIMENSIONS
    assert told["prompts"] == {"query": "Q: ", "passage": "P: "}
    assert classifier.http.get("/info").json()["purpose"]["labels"] == ["no", "yes"]


# ---- /v1/classify, /v1/score, /v1/rerank


def raw_scores(server: Served, text: str, pair: str | None = None) -> list[float]:
    """What the fake gives before any activation."""
    import hashlib

    ids = [*text.encode(), *(pair or "").encode()]
    digest = hashlib.sha512(repr((ids, pair)).encode()).digest()
    return [b / 64 - 2 for b in digest[: len(server.fake.purpose.labels)]]


def test_classes(classifier: Served) -> None:
    told = post(classifier, "/v1/classify", input=["one", "two"])
    assert told["labels"] == ["no", "yes"]
    assert told["rbee"]["method"] == "softmax"
    for row, text in zip(told["data"], ("one", "two"), strict=True):
        raw = np.array(raw_scores(classifier, text))
        want = np.exp(raw) / np.exp(raw).sum()
        assert np.allclose(row["probs"], want, atol=1e-7)
        assert row["label"] == ("no", "yes")[int(np.argmax(want))]
        assert row["num_classes"] == 2


def test_scores_of_a_cross_encoder(cross: Served) -> None:
    told = post(cross, "/v1/score", text_1="q", text_2=["a", "b"])
    for row, text in zip(told["data"], ("a", "b"), strict=True):
        [raw] = raw_scores(cross, "q", text)
        assert math.isclose(row["score"], 1 / (1 + math.exp(-raw)), rel_tol=1e-6)
    assert told["rbee"]["method"] == "cross-encoder, sigmoid"
    pairs = post(cross, "/v1/score", text_1=["q", "r"], text_2=["a", "b"])["data"]
    assert pairs[0]["score"] == told["data"][0]["score"]
    error = refused(cross, "/v1/score", text_1=["q", "r"], text_2=["a"])
    assert "has 2 texts, but text_2 has 1" in error["message"]


def test_a_cross_encoders_prompt_comes_before_the_first_text() -> None:
    """As in sentence-transformers 6; only where the file is a cross-encoder's."""
    sentence = Sentence(prompts={"search": "S: "}, prompt="search", pairs=True)
    with Served(Fake(purpose=ONE_CLASS, sentence=sentence)) as server:
        told = post(server, "/v1/rerank", query="q", documents=["d"])
        [raw] = raw_scores(server, "S: q", "d")
        score = told["results"][0]["relevance_score"]
        assert math.isclose(score, 1 / (1 + math.exp(-raw)), rel_tol=1e-6)
        assert told["rbee"]["prompt"] == "search"
        rows = post(server, "/v1/classify", input=["one"])
        [raw] = raw_scores(server, "S: one")
        assert math.isclose(rows["data"][0]["probs"][0], 1 / (1 + math.exp(-raw)), rel_tol=1e-6)
        assert rows["rbee"]["prompt"] == "search"
        assert refused(server, "/v1/classify", input="")["param"] == "input"
    assert ONE_CLASS.pairs is not None
    pairs = replace(ONE_CLASS.pairs, template="model card", instructed=True)  # has its own
    with Served(Fake(purpose=replace(ONE_CLASS, pairs=pairs), sentence=sentence)) as server:
        told = post(server, "/v1/rerank", query="q", documents=["d"])
        assert "prompt" not in told["rbee"]


def test_scores_of_an_encoder_are_cosines(encoder: Served) -> None:
    a, b = np.array(vector(encoder, "a")), np.array(vector(encoder, "b"))
    want = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    told = post(encoder, "/v1/score", text_1="a", text_2=["b", "a"])
    assert math.isclose(told["data"][0]["score"], want, rel_tol=1e-6)
    assert math.isclose(told["data"][1]["score"], 1.0, rel_tol=1e-6)
    assert told["rbee"]["method"] == "cosine"


@pytest.mark.parametrize("name", ["dot", "euclidean", "manhattan"])
def test_vectors_are_compared_as_the_models_files_say(name: Similarity) -> None:
    """As the function of that name in sentence-transformers 6 has it: distances are negative."""
    with Served(Fake(purpose=ENCODER, sentence=Sentence(similarity=name))) as server:
        a, b = np.array(vector(server, "a")), np.array(vector(server, "b"))
        told = post(server, "/v1/score", text_1="a", text_2="b")
    want = {
        "dot": a @ b,
        "euclidean": -np.linalg.norm(a - b),
        "manhattan": -np.abs(a - b).sum(),
    }
    assert math.isclose(told["data"][0]["score"], want[name], rel_tol=1e-6)
    assert told["rbee"]["method"] == name


def test_rerank(cross: Served) -> None:
    documents = [f"document {n}" for n in range(9)]
    told = post(cross, "/v1/rerank", query="q", documents=documents)
    scores = [1 / (1 + math.exp(-raw_scores(cross, "q", d)[0])) for d in documents]
    want = sorted(range(9), key=lambda n: -scores[n])
    assert [row["index"] for row in told["results"]] == want
    assert "document" not in told["results"][0]
    forms = [{"text": d} for d in documents]
    short = post(cross, "/v1/rerank", query="q", documents=forms, top_n=2, return_documents=True)
    assert [row["index"] for row in short["results"]] == want[:2]
    assert short["results"][0]["document"] == {"text": documents[want[0]]}
    assert short["usage"] == told["usage"]


def test_an_encoder_reranks_with_its_prompts(encoder: Served) -> None:
    q, d = np.array(vector(encoder, "Q: q")), np.array(vector(encoder, "P: d"))
    told = post(encoder, "/v1/rerank", query="q", documents=["d"])
    want = q @ d / np.linalg.norm(q) / np.linalg.norm(d)
    assert math.isclose(told["results"][0]["relevance_score"], want, rel_tol=1e-6)
    assert told["rbee"]["prompt"] == "query / passage"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/rerank", {"query": "", "documents": ["a"]}, "query"),
        ("/v1/rerank", {"query": "q", "documents": []}, "documents"),
        ("/v1/rerank", {"query": "q", "documents": ["a", ""]}, "documents[1]"),
        ("/v1/rerank", {"query": "q", "documents": [{"txt": "a"}]}, "documents[0].txt"),
        ("/v1/rerank", {"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
        ("/v1/rerank", {"documents": ["a"]}, "query"),
        ("/v1/score", {"text_1": "a"}, "text_2"),
        ("/v1/score", {"text_1": "a", "text_2": [1]}, "text_2[0]"),
        ("/v1/score", {"text_1": "a", "text_2": ["b", ""]}, "text_2[1]"),
        ("/v1/score", {"text_1": "a", "text_2": "b", "queries": "c"}, "queries"),
    ],
)
def test_faulty_pairs_are_named(cross: Served, path: str, body: dict[str, Any], field: str) -> None:
    error = refused(cross, path, **body)
    assert error["param"] == field
    assert [e["field"] for e in error["errors"]] == [field]


def test_figures_count_texts_as_requests(encoder: Served) -> None:
    def count() -> float:
        lines = encoder.http.get("/metrics").text.splitlines()
        (line,) = [row for row in lines if row.startswith("rbee_requests_total ")]
        return float(line.split()[1])

    before = count()
    post(encoder, "/v1/embeddings", input=["a", "b", "c"])
    assert count() == before + 3
    assert 'rbee_stops_total{rule="VECTOR"}' in encoder.http.get("/metrics").text
