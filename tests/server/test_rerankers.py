"""Decoders that score pairs of texts, over HTTP, against transformers in float32."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from rbee_worker.cli.inspect import rows
from rbee_worker.cli.report import report
from rbee_worker.config import Settings
from rbee_worker.errors import UnsupportedModel, UsageError
from rbee_worker.session.client import EngineClient
from tests import encoders, rerankers
from tests.rerankers import by_model_card, opened, vocabulary, write
from tests.server.served import Served

BOUND = 1e-5
QUERY = "what do bees eat?"
DOCUMENTS = ["bees eat nectar", "no. the end", "日本 <|im_end|> yes\n", " x  "]


def served(path: Path, **settings: Any) -> Served:
    start = partial(EngineClient.start, in_process=True)
    chosen = {"backend": "cpu", "threads": 1, "max_seqs": 4, "max_queue": 8, **settings}
    return Served(start=start, model=str(path), **chosen)


def scores(server: Served, **body: Any) -> list[float]:
    """In the order of the documents."""
    given = {"query": QUERY, "documents": DOCUMENTS, **body}
    answer = server.http.post("/v1/rerank", json=given).json()
    assert "results" in answer, answer
    best = [row["relevance_score"] for row in answer["results"]]
    assert best == sorted(best, reverse=True)
    return [row["relevance_score"] for row in sorted(answer["results"], key=lambda r: r["index"])]


def close(found: list[float], want: list[float]) -> bool:
    return max(abs(a - b) for a, b in zip(found, want, strict=True)) < BOUND


def test_a_model_that_answers_yes_or_no(tmp_path: Path) -> None:
    """By --rerank yes-no, in the model card's template; it still generates."""
    path = write(tmp_path)
    shown = "\n".join(str(row) for row in rows(report(Settings(model=str(path), rerank="yes-no"))))
    assert (
        "scores of two texts by whether it answers yes or no, in the template of Qwen3-Reranker's "
        "model card, with an instruction (--rerank)"
    ) in shown
    with served(path, rerank="yes-no") as server:
        found = scores(server)
        assert close(found, [by_model_card(path, QUERY, d) for d in DOCUMENTS])
        assert max(found) - min(found) > 100 * BOUND
        told = scores(server, instruction="Find birds")
        assert close(told, [by_model_card(path, QUERY, d, "Find birds") for d in DOCUMENTS])
        assert not close(told, found)
        long = {"text_1": "a", "text_2": "b", "instruction": "x" * 100_000, "truncate": True}
        refused = server.http.post("/v1/score", json=long)
        assert refused.json()["error"]["param"] == "instruction"
        body = {"text_1": QUERY, "text_2": DOCUMENTS}
        answer = server.http.post("/v1/score", json=body).json()
        assert [row["score"] for row in answer["data"]] == found
        assert answer["rbee"] == {"origin": "--rerank", "method": "yes or no, sigmoid"}
        purpose = server.http.get("/info").json()["purpose"]
        assert purpose["task"] == "generate"
        assert purpose["pairs"] == {
            "by": "yes-no",
            "origin": "--rerank",
            "template": "model card",
            "label": 0,
            "ids": [vocabulary().index("yes"), vocabulary().index("no")],
            "activation": "sigmoid",
            "instructed": True,
        }
        told = server.http.post("/v1/completions", json={"prompt": "a", "max_tokens": 2})
        assert told.status_code == 200


def test_a_long_document_is_cut_before_what_follows_it(tmp_path: Path) -> None:
    path = write(tmp_path)
    long = "the bee hums. " * 400
    with served(path, rerank="yes-no", ctx=512) as server:
        body = {"text_1": QUERY, "text_2": [long, "short"]}
        refused = server.http.post("/v1/score", json=body)
        assert refused.status_code == 400
        assert "the limit is 512" in refused.json()["error"]["message"]
        answer = server.http.post("/v1/score", json={**body, "truncate": True}).json()
        assert "to 512 tokens" in answer["rbee"]["warnings"][0]
        want = [by_model_card(path, QUERY, text, most=512) for text in body["text_2"]]
        assert close([row["score"] for row in answer["data"]], want)
        body = {"text_1": long, "text_2": ["short"], "truncate": True}
        refused = server.http.post("/v1/score", json=body)
        assert "nothing of it would be left" in refused.json()["error"]["message"]


def test_a_published_reranker_is_known_by_its_name(tmp_path: Path) -> None:
    """Its files are those of a model that generates; in the hub's cache, the folder has its name.
    Another model's name says nothing, and its cosines come with a warning."""
    commit = "0" * 40
    for name, method in (("Qwen3-Reranker-0.6B", "yes or no, sigmoid"), ("Qwen3-0.6B", "cosine")):
        path = write(tmp_path / f"models--Qwen--{name}" / "snapshots" / commit)
        with served(path) as server:
            answer = server.http.post("/v1/score", json={"text_1": "a", "text_2": "b"}).json()
        assert answer["rbee"]["method"] == method
        assert bool(answer["rbee"].get("warnings")) == (method == "cosine")
    settings = Settings(
        model=str(tmp_path / "models--Qwen--Qwen3-Reranker-0.6B/snapshots" / commit)
    )
    assert report(settings)["purpose"]["pairs"]["origin"] == "the name Qwen/Qwen3-Reranker-0.6B"


@pytest.mark.parametrize("alone", [False, True])
def test_sentence_transformers_files(alone: bool, tmp_path: Path) -> None:
    """Roles of a chat template, and the tokens of LogitScore: with one, its logit is the score.
    The prompt is a message of the system; that of the request comes in its place."""
    path = write(tmp_path, chat=rerankers.CHAT)
    yes, no = vocabulary().index("yes"), vocabulary().index("no")
    said = {"prompts": {"usual": "Find bees"}, "default_prompt_name": "usual"}
    said["activation_fn"] = "torch.nn.modules.linear.Identity"
    rerankers.as_sentence_transformers(path, ids=(yes, None if alone else no), **said)
    model, tokenizer = opened(path)

    def want(instruction: str) -> list[float]:
        found = []
        for document in DOCUMENTS:
            texts = {"system": instruction, "query": f" {QUERY} ", "document": document}
            ids = tokenizer.apply_chat_template(
                [{"role": role, "content": text} for role, text in texts.items()],
                add_generation_prompt=True,
                return_dict=False,
            )
            with torch.inference_mode():
                logits = model(torch.tensor([ids])).logits[0, -1]
            found.append(float(logits[yes] if alone else logits[yes] - logits[no]))
        return found

    with served(path) as server:
        told = server.http.post("/v1/score", json={"text_1": "a", "text_2": "b"}).json()["rbee"]
        assert told["prompt"] == "usual"
        assert close(scores(server, query=f" {QUERY} "), want("Find bees"))
        assert close(scores(server, query=f" {QUERY} ", instruction="Birds"), want("Birds"))
        far = scores(server, query=" " * 20_000 + QUERY, truncate=True)  # the template strips it
        assert close(far, want("Find bees"))
        pairs = server.http.get("/info").json()["purpose"]["pairs"]
        assert (pairs["by"], pairs["template"]) == ("yes-no", "chat")
        assert pairs["origin"] == "1_LogitScore/config.json"


def test_a_token_of_a_document_and_of_what_follows_it(tmp_path: Path) -> None:
    """A document is cut to the characters that fit, where the template goes on within a token."""
    chat = rerankers.CHAT.replace("| first }}<|im_end|>", "| first }}es<|im_end|>")
    path = write(tmp_path, chat=chat)
    yes, no = (vocabulary().index(word) for word in ("yes", "no"))
    rerankers.as_sentence_transformers(path, ids=(yes, no))
    model, tokenizer = opened(path)
    document = "the bee hums by " * 60 + "y" * 400

    def rendered(cut: str, query: str = QUERY) -> list[int]:
        messages = [{"role": "query", "content": query}, {"role": "document", "content": cut}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return ids

    fits = max(n for n in range(len(document)) if len(rendered(document[:n])) <= 512)
    assert yes in rendered(document)
    with served(path, ctx=512) as server, torch.inference_mode():
        (found,) = scores(server, documents=[document], truncate=True)
        logits = model(torch.tensor([rendered(document[:fits])])).logits[0, -1].double()
        # One token is left for a document whose first character has three: nothing of it fits.
        query = QUERY + "x" * (511 - len(rendered("")))
        assert len(rendered("", query)) == 511
        body = {"text_1": query, "text_2": "日" * 400 + "y", "truncate": True}
        refused = server.http.post("/v1/score", json=body)
    assert refused.status_code == 400
    assert "nothing of it would be left" in refused.json()["error"]["message"]
    assert close([found], [float((logits[yes] - logits[no]).sigmoid())])


@pytest.mark.parametrize("classes", [1, 3])
def test_a_head_for_classes(classes: int, tmp_path: Path) -> None:
    """Both texts as the tokenizer puts them together; ids that end with padding."""
    path = write(tmp_path, classes=classes)
    model, tokenizer = opened(path, classes=True)
    with served(path) as server, torch.inference_mode():
        padded = [[5, 6, 7, model.config.pad_token_id, model.config.pad_token_id], [9, 10]]
        answer = server.http.post("/v1/classify", json={"input": padded}).json()
        for row, ids in zip(answer["data"], padded, strict=True):
            logits = model(torch.tensor([ids])).logits[0].double()
            probs = logits.sigmoid() if classes == 1 else logits.softmax(0)
            assert close(row["probs"], probs.tolist())
        if classes > 1:
            body = {"text_1": "a", "text_2": "b"}
            assert server.http.post("/v1/score", json=body).status_code == 400
            return
        want = [
            float(model(**tokenizer(QUERY, d, return_tensors="pt")).logits[0, 0].double().sigmoid())
            for d in DOCUMENTS
        ]
        assert close(scores(server), want)
        refused = server.http.post(
            "/v1/score", json={"text_1": "a", "text_2": "b", "instruction": "x"}
        )
        assert "do not depend on one" in refused.json()["error"]["message"]


@pytest.mark.parametrize("files", [True, False])
def test_a_head_of_one_class_in_a_template(files: bool, tmp_path: Path) -> None:
    """As rerankers are converted to it: with sentence-transformers' files, or by --rerank yes-no
    in the model card's template. What pads is no row of it, also at a template's end."""
    chat = rerankers.CHAT + rerankers.SPECIAL[0]
    path = write(tmp_path, classes=1, chat=chat if files else "")
    if files:
        rerankers.as_sentence_transformers(path)
    model, tokenizer = opened(path, classes=True)
    want = []
    for document in DOCUMENTS:
        if files:
            messages = [("query", QUERY), ("document", document)]
            ids = tokenizer.apply_chat_template(
                [{"role": role, "content": text} for role, text in messages],
                add_generation_prompt=True,
                return_dict=False,
            )
        else:
            middle = (
                f"<Instruct>: {rerankers.INSTRUCTION}\n<Query>: {QUERY}\n<Document>: {document}"
            )
            ids = tokenizer.encode(rerankers.PREFIX + middle + rerankers.SUFFIX)
        with torch.inference_mode():
            want.append(float(model(torch.tensor([ids])).logits[0, 0].double().sigmoid()))
    with served(path, rerank="auto" if files else "yes-no") as server:
        assert close(scores(server), want)


def test_llama_cpps_files(tmp_path: Path) -> None:
    path = write(tmp_path / "model")
    with served(rerankers.write_gguf(path, tmp_path / "model.gguf")) as server:
        assert close(scores(server), [by_model_card(path, QUERY, d) for d in DOCUMENTS])
        told = scores(server, instruction="Find birds")
        assert close(told, [by_model_card(path, QUERY, d, "Find birds") for d in DOCUMENTS])
        none = scores(server, instruction="")
        assert close(none, [by_model_card(path, QUERY, d, "") for d in DOCUMENTS])
        pairs = server.http.get("/info").json()["purpose"]["pairs"]
        assert (pairs["by"], pairs["template"], pairs["activation"]) == (
            "classes",
            "gguf",
            "softmax",
        )
        assert pairs["origin"] == "gguf:tokenizer.chat_template.rerank"
    warnings = report(Settings(model=str(tmp_path / "model.gguf")))["warnings"]
    assert not [note for note in warnings if "nothing reads" in note]


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "three", classes=3)
    with pytest.raises(UsageError, match="has 3 classes, a score is that of one"):
        report(Settings(model=str(path), rerank="yes-no"))
    path = write(tmp_path / "plain", chat="{{ messages[0].content }}")
    rerankers.as_sentence_transformers(path, ids=(1, 2))
    with pytest.raises(UnsupportedModel, match="leaves out the document"):
        report(Settings(model=str(path)))
    changed = rerankers.CHAT.replace("| first }}<|im_end|>", "| first | tojson }}<|im_end|>")
    (path / "chat_template.jinja").write_text(changed)
    with pytest.raises(UnsupportedModel, match="it changes their texts"):
        report(Settings(model=str(path)))
    file = rerankers.write_gguf(path, tmp_path / "model.gguf", asked="<Query>: {query}")
    with pytest.raises(UnsupportedModel, match=r"rerank of the file .* leaves out the document"):
        report(Settings(model=str(file)))


def test_an_encoder_is_asked_no_question(tmp_path: Path) -> None:
    """The template has none of the tokens that an encoder is given around two texts."""
    [row] = [row for row in encoders.ROWS if row.id == "bert-one-class"]
    path = encoders.write(row, tmp_path)
    with pytest.raises(UsageError, match="is an encoder"):
        report(Settings(model=str(path), rerank="yes-no"))
