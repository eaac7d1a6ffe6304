"""llama.cpp's own routes, around scripted answers. Its server's own tests are run by
benchmarks/llamacpp_tests.py."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from rbee_worker.server.llamacpp.routes import ALIASES
from rbee_worker.types import Request
from tests.server.fake_engine import Fake, answer_ids
from tests.server.served import Served, wait_for
from tests.server.talking import Talking
from tests.server.test_every_parameter import BASE
from tests.tokenizer.tool_templates import QWEN3

ANSWERS = ("a\nb", "plain")
FIM = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "<repo_name>")


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talking]:
    """It has tokens for filling gaps; the answer's number is in the prompt."""
    folder = tmp_path_factory.mktemp("model")
    with Talking(folder, QWEN3, ANSWERS, tokens=FIM, by_text=True) as server:
        yield server


def post(server: Served, path: str = "/completion", **body: Any) -> Any:
    response = server.http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def pieces(server: Served, **body: Any) -> list[dict[str, Any]]:
    text = server.http.post("/completion", json={**body, "stream": True}).text
    frames = text.split("\n\n")[:-1]
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def test_a_completion_has_llamacpps_fields(served: Served) -> None:
    answer = post(served, prompt="Bees", n_predict=9, seed=3, return_tokens=True)
    ids = answer_ids(Request(id="", prompt="Bees"))[:9]
    assert answer["content"] == bytes(ids).decode(errors="replace")
    assert answer["tokens"] == ids
    assert (answer["stop"], answer["stop_type"], answer["stopping_word"]) == (True, "limit", "")
    assert (answer["tokens_predicted"], answer["tokens_evaluated"]) == (9, 4)
    assert (answer["prompt"], answer["truncated"], answer["model"]) == ("Bees", False, "smollm2")
    assert (answer["timings"]["prompt_n"], answer["timings"]["predicted_n"]) == (4, 9)
    told = answer["generation_settings"]
    assert (told["seed"], told["n_predict"], told["mirostat"]) == (3, 9, 0)
    # llama.cpp's own defaults, which are those of chats
    assert [told[n] for n in ("temperature", "top_k", "top_p", "min_p")] == [0.8, 40, 0.95, 0.05]
    assert post(served, prompt="Bees", n_predict=9)["tokens"] == []


def test_streamed_pieces_join_to_the_answer(served: Served) -> None:
    asked: dict[str, Any] = {"prompt": "Bees", "n_predict": 30, "seed": 3}
    *parts, last = pieces(served, **asked)
    whole = post(served, **asked, return_tokens=True)
    assert "".join(p["content"] for p in parts) == whole["content"]
    assert [t for p in parts for t in p["tokens"]] == whole["tokens"]
    assert [p["stop"] for p in parts] == [False] * len(parts)
    assert (last["stop"], last["content"], last["stop_type"]) == (True, "", "limit")
    assert parts[-1]["tokens_predicted"] == 30


def test_how_an_answer_ends(talking: Talking) -> None:
    whole = post(talking, prompt="say #1")
    assert (whole["content"], whole["stop_type"], whole["has_new_line"]) == ("plain", "eos", False)
    cut = post(talking, prompt="say #1", stop=["ai"])
    assert (cut["content"], cut["stop_type"], cut["stopping_word"]) == ("pl", "word", "ai")


def test_forms_of_a_prompt(talking: Talking) -> None:
    tokenizer = talking.text.tokenizer
    ids = tokenizer.encode("say #1")
    single = post(talking, prompt="say #1")
    assert single["content"] == "plain"
    several = post(talking, prompt=[ids, "say #1", {"prompt_string": "say #1"}])
    assert [a["content"] for a in several] == ["plain"] * 3
    assert [a["index"] for a in several] == [0, 1, 2]
    assert len({a["prompt"] for a in several}) == 1
    mixed = post(talking, prompt=[*tokenizer.encode("say", add_special=False), " #0"])
    assert (mixed["content"], mixed["has_new_line"]) == ("a\nb", True)
    assert len(post(talking, prompt="say #1", n_cmpl=2)) == 2


def test_probabilities_and_chosen_fields(served: Served) -> None:
    answer = post(served, prompt="Bees", n_predict=3, n_probs=2)
    rows = answer["completion_probabilities"]
    assert len(rows) == 3
    assert all(row["logprob"] == -0.5 and len(row["top_logprobs"]) == 2 for row in rows)
    assert bytes(b for row in rows for b in row["bytes"]).decode() == answer["content"]
    fields = ["content", "generation_settings/n_predict", "nothing"]
    chosen = post(served, prompt="Bees", n_predict=3, response_fields=fields)
    assert chosen == {"content": answer["content"], "generation_settings/n_predict": 3}


def test_biases_of_ids_and_texts(served: Served) -> None:
    told = post(served, prompt="x", n_predict=1, logit_bias=[[65, 2.5], ["bc", False]])
    assert told["generation_settings"]["logit_bias"] == [[65, 2.5], [98, -100], [99, -100]]
    told = post(served, prompt="x", n_predict=1, logit_bias={"65": 1, "b": -1})
    assert told["generation_settings"]["logit_bias"] == [[65, 1.0], [98, -1.0]]


def test_off_means_off(served: Served) -> None:
    told = post(served, prompt="x", n_predict=1, repeat_last_n=0, repeat_penalty=1.5)
    assert told["generation_settings"]["repeat_penalty"] == 1.0
    off = {"mirostat": 0, "typical_p": 1, "dry_multiplier": 0.0, "dry_base": 2, "samplers": []}
    seeds = {post(served, prompt="x", **off)["generation_settings"]["seed"] for _ in range(3)}
    assert len(seeds) == 3
    again = post(served, prompt="x", n_predict=-1, seed=-1)["generation_settings"]
    assert again["n_predict"] > 4000


def test_infill(talking: Talking) -> None:
    encode = talking.text.tokenizer.encode
    answer = post(
        talking,
        "/infill",
        input_prefix="def f(): #0\n",
        input_suffix="\nreturn",
        input_extra=[{"filename": "a.py", "text": "x = 1"}],
        prompt="  # #1",
    )
    assert answer["content"] == "plain"
    parts = [
        *("<repo_name>", "project\n", "<file_sep>", "a.py\nx = 1", "<file_sep>", "filename\n"),
        *("<fim_prefix>", "def f(): #0\n", "<fim_suffix>", "\nreturn", "<fim_middle>", "  # #1"),
    ]
    ids = [i for part in parts for i in encode(part, add_special=False)]
    assert answer["tokens_evaluated"] == len(ids) + len(encode(""))
    refused = talking.http.post("/infill", json={"input_prefix": "x", "input_extra": [{"a": 1}]})
    fields = [e["field"] for e in refused.json()["errors"]]
    assert fields == ["input_extra[0].a", "input_suffix"]


def test_a_model_without_such_tokens_says_so(served: Served) -> None:
    response = served.http.post("/infill", json={"input_prefix": "x", "input_suffix": "y"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["type"]) == (400, "invalid_request_error")
    assert "no tokens for filling a gap" in error["message"]


def test_props_and_slots(served: Served) -> None:
    props = served.http.get("/props").json()
    assert props["total_slots"] == served.settings.max_seqs
    assert props["model_path"] == "smollm2"
    assert props["default_generation_settings"]["params"]["temperature"] == 0.8
    slots = served.http.get("/slots").json()
    assert len(slots) == served.settings.max_seqs
    assert not any(slot["is_processing"] for slot in slots)
    with Served(Fake(hold=threading.Event(), hold_at=9), max_seqs=4) as slow:
        with slow.http.stream("POST", "/completion", json={"prompt": "x", "stream": True}) as live:
            lines = live.iter_lines()  # kept: one that is collected closes the connection
            next(lines)
            busy = [s["is_processing"] for s in slow.http.get("/slots").json()]
            assert busy == [True, False, False, False]
        wait_for(lambda: slow.engine.held == 0)  # leaving cancels
    assert "keeps nothing" in served.http.post("/slots/0", json={}).json()["error"]["message"]


def test_vectors(served: Served) -> None:
    (theirs,) = post(served, "/v1/embeddings", input="Hum")["data"]
    (ours,) = post(served, "/embedding", content="Hum")
    assert ours == {"index": 0, "embedding": [theirs["embedding"]]}
    both = post(served, "/embeddings", input=["Hum", "Sing"])
    assert [len(row["embedding"]) for row in both] == [1, 1]


@pytest.mark.parametrize("path", ALIASES)
def test_routes_answer_under_llamacpps_names(served: Served, path: str) -> None:
    for other in ALIASES[path]:
        if path in BASE:
            told = served.http.post(other, json={**BASE[path], "temperature": 9}).json()
            assert told == served.http.post(path, json={**BASE[path], "temperature": 9}).json()
        else:
            assert served.http.get(other).json() == served.http.get(path).json()


def test_openais_client_without_v1(served: Served) -> None:
    client = openai.OpenAI(base_url=served.url, api_key=served.token)
    served.others.append(client)
    talk: Any = [{"role": "user", "content": "Hum"}]
    answer = client.chat.completions.create(model="smollm2", messages=talk, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [None]}, "prompt[0]"),
        (
            {"prompt": {"prompt_string": "x", "multimodal_data": ["QUJD"]}},
            "prompt.multimodal_data[0]",
        ),
        ({"prompt": [1, 99999]}, "prompt"),
        ({"prompt": "x", "n_predict": 0}, "n_predict"),
        ({"prompt": "x", "temperature": 9}, "temperature"),
        ({"prompt": "x", "repeat_penalty": 0}, "repeat_penalty"),
        ({"prompt": "x", "mirostat": 2}, "mirostat"),
        ({"prompt": "x", "samplers": ["top_k", "dry"]}, "samplers"),
        ({"prompt": "x", "post_sampling_probs": True}, "post_sampling_probs"),
        ({"prompt": "x", "n_probs": 99}, "n_probs"),
        ({"prompt": "x", "logit_bias": [[1]]}, "logit_bias"),
        ({"prompt": "x", "lora": [{"id": 0, "scale": 1}]}, "lora"),
        ({"prompt": "x", "nonsense": 1}, "nonsense"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    served: Served, body: dict[str, Any], field: str
) -> None:
    response = served.http.post("/completion", json=body)
    assert response.status_code == 400, response.text
    told = response.json()
    assert told["error"]["code"] == 400
    assert field in [e["field"] for e in told["errors"]]
