"""Request parameters: ranges, types, aliases, origins, defaults; every error in one answer."""

import json
import subprocess
import sys
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from rbee_worker.errors import FieldError, InvalidRequest, UsageError
from rbee_worker.params import (
    GROUPS,
    PARAMETERS,
    Rules,
    check_request,
    defaults_of,
    describe,
    fit,
    from_text,
    generation_defaults,
    names,
    options,
    report,
    resolve,
    split,
)
from rbee_worker.params.foreign import INERT
from rbee_worker.types import EosToken, Request, Resolved, SamplingParams

VOCAB, CONTEXT = 1000, 512
NAN, INF = float("nan"), float("inf")
SURFACES = ("job", "generate", "completions", "chat", "speech")


def resolved(request: dict[str, Any] | None = None, surface: Any = "job", **more: Any) -> Resolved:
    keywords = {"vocab_size": VOCAB, "context": CONTEXT, "generation": {}, **more}
    return resolve(request or {}, surface=surface, **keywords)


def errors(request: dict[str, Any], surface: Any = "job", **more: Any) -> list[FieldError]:
    with pytest.raises(InvalidRequest) as caught:
        resolved(request, surface, **more)
    return caught.value.errors


# ---- values


def test_silence_gives_the_documented_defaults():
    silent = resolved()
    default = SamplingParams(seed=silent.params.seed)
    assert silent.params == default
    assert silent.params.max_tokens == 128
    assert set(silent.origins) == {f.name for f in msgspec.structs.fields(SamplingParams)}
    assert silent.origins.pop("seed") == "random"
    assert set(silent.origins.values()) == {"default"}


@pytest.mark.parametrize(
    ("surface", "max_tokens"), [("job", 128), ("generate", 128), ("completions", 16), ("chat", 412)]
)
def test_default_length_by_surface(surface, max_tokens):
    assert fit(resolved({}, surface), 100, CONTEXT).max_tokens == max_tokens


GOOD = [
    ("thinking_budget", 0, 0),
    ("max_tokens", 1, 1),
    ("max_tokens", CONTEXT, CONTEXT),
    ("temperature", 0, 0.0),
    ("temperature", 2, 2.0),
    ("temperature", -0.0, 0.0),
    ("top_p", 1, 1.0),
    ("top_p", 1e-9, 1e-9),
    ("top_k", 0, 0),
    ("top_k", -1, 0),
    ("top_k", 10**6, 10**6),
    ("min_p", 0, 0.0),
    ("min_p", 1, 1.0),
    ("repetition_penalty", 1e-6, 1e-6),
    ("repetition_penalty", 2, 2.0),
    ("repeat_last_n", -1, -1),
    ("repeat_last_n", 0, 0),
    ("repeat_last_n", 10**6, 10**6),
    ("presence_penalty", -2, -2.0),
    ("presence_penalty", 2, 2.0),
    ("frequency_penalty", -2, -2.0),
    ("frequency_penalty", 2.0, 2.0),
    ("logit_bias", {"0": -100, "999": 100}, {0: -100.0, 999: 100.0}),
    ("logit_bias", {5: 1.5}, {5: 1.5}),
    ("logit_bias", {}, {}),
    ("seed", 0, 0),
    ("seed", 2**64 - 1, 2**64 - 1),
    ("stop", "x", ("x",)),
    ("stop", ["x", "y" * 256], ("x", "y" * 256)),
    ("stop", ["x"] * 16, ("x",) * 16),
    ("stop", [], ()),
    ("stop_token_ids", [0, 999], (0, 999)),
    ("stop_token_ids", [], ()),
    ("ignore_eos", True, True),
    ("min_tokens", 128, 128),
    ("logprobs", 0, 0),
    ("logprobs", 20, 20),
    ("echo", True, True),
    ("skip_special_tokens", False, False),
    ("speculation", False, False),
]


@pytest.mark.parametrize(("name", "value", "want"), GOOD)
def test_values_in_range_are_taken_and_said_to_be_the_requests(name, value, want):
    got = resolved({name: value})
    assert getattr(got.params, name) == want
    assert type(getattr(got.params, name)) is type(want)
    assert got.origins[name] == "request"
    others = {k: v for k, v in got.origins.items() if k not in (name, "seed")}
    assert set(others.values()) == {"default"}


BAD = [
    ("thinking_budget", [-1, 1.5, "x", True, 1 << 31]),
    ("max_tokens", [0, -1, CONTEXT + 1, 1.0, "16", True, [1], 10**400]),
    ("temperature", [-0.1, 2.1, NAN, INF, -INF, "1", True, [], {}, 10**400]),
    ("top_p", [0, -1, 1.01, NAN, "0.9", False]),
    ("top_k", [-2, 1.5, 2.0, "40", True, 2**31]),
    ("min_p", [-0.01, 1.01, NAN, "0", True]),
    ("repetition_penalty", [0, -1, 2.01, NAN, "1.1", True]),
    ("repeat_penalty", [0, -1, 2.01, NAN, "1.1", True]),
    ("repeat_last_n", [-2, 0.5, "64", True, 2**31]),
    ("presence_penalty", [-2.01, 2.01, NAN, "0", True]),
    ("frequency_penalty", [-2.01, 2.01, NAN, "0", True]),
    (
        "logit_bias",
        [
            {"1000": 1},
            {"-1": 1},
            {"x": 1},
            {"007": 1},
            {" 7": 1},
            {"٣": 1},
            {"1": 101},
            {"1": -101},
            {"1": NAN},
            {"1": "1"},
            {"1": True},
            {"1": None},
            {True: 1},
            {"9" * 5000: 1},
            [],
            "x",
            3,
        ],
    ),
    ("seed", [-1, 2**64, 1.0, "7", True, 10**400]),
    ("stop", ["", "x" * 257, ["x"] * 17, [""], [3], 3, {"a": 1}, "\ud800"]),
    ("stop_token_ids", [[1000], [-1], [True], ["3"], [1.0], 3, "3", list(range(17))]),
    ("ignore_eos", [1, 0, "true", []]),
    ("min_tokens", [-1, 129, 1.0, "3", True, 10**400]),
    ("logprobs", [-1, 21, 1.0, "5", True, False]),
    ("echo", [1, "true"]),
    ("skip_special_tokens", [0, "false"]),
    ("speculation", [0, "off", "ngram"]),
]


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in BAD for value in values],
    ids=lambda x: repr(x)[:30],
)
def test_everything_else_is_refused_under_its_name(name, value):
    [error] = errors({name: value})
    assert error.field == name
    assert error.constraint
    assert error.message
    assert "\n" not in error.message
    msgspec.json.encode(error)
    assert len(error.message) < 200


def test_every_parameter_has_good_and_bad_values_here():
    fields = {f.name for f in msgspec.structs.fields(SamplingParams)} - {"constraint"}
    assert {name for name, _, _ in GOOD} == fields
    assert {name for name, _ in BAD} - {"repeat_penalty"} == fields


def test_all_offending_fields_are_listed_at_once():
    request = {
        "temperature": 9,
        "top_p": "x",
        "nonsense": 1,
        "tools": [{}],
        "seed": -1,
        "top_k": 5,
        "stop": "",
    }
    found = errors(request)
    assert [e.field for e in found] == ["temperature", "top_p", "nonsense", "tools", "seed", "stop"]
    assert found[0] == FieldError("temperature", "[0, 2]", "must be at most 2", 9)
    assert found[1].value == "x"
    assert found[4].message == "must be at least 0"


def test_null_is_silence():
    everything = {key: None for surface in SURFACES for key in names(surface)}
    for surface in SURFACES:
        mine = {key: None for key in everything if key in names(surface)}
        got = resolved(mine, surface, generation={"temperature": 0.5})
        assert got.origins["temperature"] == "generation_config"
        own = {"worker default (chat)"} if surface == "chat" else set()
        assert set(got.origins.values()) == {"default", "generation_config", "random"} | own


def test_a_chat_has_defaults_of_its_own():
    """The values that are said to be used, with their origin; what the model says comes first."""
    want = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
    for surface, chat in (("chat", None), ("job", True)):
        got = resolved({}, surface, chat=chat)
        assert {name: getattr(got.params, name) for name in want} == want
        assert {got.origins[name] for name in want} == {"worker default (chat)"}
        got = resolved({"top_p": 1}, surface, chat=chat, generation={"top_k": 20})
        assert (got.params.top_p, got.origins["top_p"]) == (1.0, "request")
        assert (got.params.top_k, got.origins["top_k"]) == (20, "generation_config")
        assert (
            resolved({}, surface, chat=chat, generation={"do_sample": False}).params.temperature
            == 0
        )
    for surface in ("job", "completions", "generate"):
        got = resolved({}, surface)
        assert (got.params.temperature, got.params.top_p) == (1.0, 1.0)
        assert (got.params.top_k, got.params.min_p) == (0, 0.0)


# ---- aliases


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [("repeat_penalty", "repetition_penalty", 1.5), ("max_completion_tokens", "max_tokens", 9)],
)
@pytest.mark.parametrize("surface", SURFACES)
def test_aliases_mean_the_same_and_exclude_each_other(surface, alias, name, value):
    got = resolved({alias: value}, surface)
    assert getattr(got.params, name) == value
    assert got.origins[name] == "request"
    for pair in ({alias: value, name: value}, {name: value, alias: value}):
        [error] = errors(pair, surface)
        assert alias in error.message
        assert name in error.message
    assert getattr(resolved({alias: value, name: None}, surface).params, name) == value


@pytest.mark.parametrize(
    ("request_", "want"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
        ({"logprobs": True, "top_logprobs": 0}, 0),
        ({"logprobs": False, "top_logprobs": 0}, None),
    ],
)
def test_chat_logprobs_are_a_switch_and_a_number(request_, want):
    assert resolved(request_, "chat").params.logprobs == want


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"top_logprobs": 3, "logprobs": False}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": True}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
    ],
)
def test_chat_logprobs_refused(request_, field):
    assert [e.field for e in errors(request_, "chat")] == [field]


def test_completions_logprobs_go_to_five():
    assert resolved({"logprobs": 5}, "completions").params.logprobs == 5
    assert errors({"logprobs": 6}, "completions")[0].constraint == "[0, 5]"
    assert errors({"logprobs": True}, "completions")[0].field == "logprobs"
    [error] = errors({"logprobs": 1, "top_logprobs": 2}, "completions")
    assert "exists for chat" in error.message


# ---- keys that are no sampling parameters


@pytest.mark.parametrize("key", ["user", "metadata", "store", "service_tier"])
@pytest.mark.parametrize("value", ["x", {"a": [1]}, True, 3])
def test_inert_keys_change_nothing(key, value):
    base = resolved({"seed": 1}, "chat")
    assert resolved({"seed": 1, key: value}, "chat") == base


OFF = [
    ("functions", [], [{"name": "x"}]),
    ("functions", [], [{}]),
    ("function_call", "none", "auto"),
    ("suffix", "", "x"),
    ("mirostat", 0, 2),
    ("mirostat", 0.0, False),
    ("typical_p", 1, 0.9),
    ("num_beams", 1, True),
    ("modalities", ["text"], ["audio"]),
]


@pytest.mark.parametrize(("key", "off", "on"), OFF)
def test_what_is_not_implemented_is_accepted_only_where_it_means_off(key, off, on):
    base = resolved({"seed": 1}, "chat")
    assert resolved({"seed": 1, key: off}, "chat") == base
    assert resolved({"seed": 1, key: None}, "chat") == base
    [error] = errors({key: on}, "chat")
    assert error.field == key
    assert "not implemented" in error.message
    assert json.dumps(off).replace(" ", "") in error.message.replace(" ", "") or off == 0


def test_unknown_keys_are_refused_with_the_nearest_name_and_without_their_value():
    [error] = errors({"temprature": 1})
    assert "did you mean temperature?" in error.message
    [error] = errors({"promt": "my secret diary"})
    assert "secret" not in str(error)
    assert error.value is None
    [error] = errors({"k" * 5000: 1})
    assert len(error.field) == 64


def test_lenient_lets_unknown_keys_through_by_name_and_nothing_else():
    got = resolved({"wild": 1, "wilder": None, "seed": 1}, lenient=True)
    assert got.ignored == ("wild", "wilder")
    assert got.params == resolved({"seed": 1}).params
    assert [e.field for e in errors({"wild": 1, "tools": [{}], "top_k": "x"}, lenient=True)] == [
        "tools",
        "top_k",
    ]


def test_transport_keys_are_the_routes():
    body = {"model": "m", "messages": [], "stream": True, "n": 2, "top_p": 0.5, "prompt": "p"}
    transport, rest = split(body, "chat")
    assert transport == {"model": "m", "messages": [], "stream": True, "n": 2}
    assert rest == {"top_p": 0.5, "prompt": "p"}
    assert [e.field for e in errors(rest, "chat")] == ["prompt"]
    [error] = errors({"timeout_s": 1})
    assert error.constraint == "read by the route"
    [error] = errors({"stream": True})
    assert "it exists for completions, chat" in error.message


# ---- the model's own defaults


def test_generation_config_speaks_where_the_request_is_silent():
    generation = {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 50,
        "min_p": 0.05,
        "repetition_penalty": 1.05,
        "max_new_tokens": 7,
        "eos_token_id": [1, 2],
    }
    got = resolved({"top_p": 0.5, "top_k": -1}, generation=generation)
    assert (got.params.temperature, got.origins["temperature"]) == (0.6, "generation_config")
    assert (got.params.top_p, got.origins["top_p"]) == (0.5, "request")
    assert (got.params.top_k, got.origins["top_k"]) == (0, "request")
    assert (got.params.min_p, got.origins["min_p"]) == (0.05, "generation_config")
    assert got.params.repetition_penalty == 1.05
    assert (got.params.max_tokens, got.origins["max_tokens"]) == (128, "default")
    assert resolved({"repeat_penalty": 1}, generation=generation).params.repetition_penalty == 1


def test_do_sample_false_is_greedy_and_its_absence_is_not():
    silent = {"temperature": 0.6, "top_k": 50, "repetition_penalty": 1.1}
    assert generation_defaults(silent) == (silent, ())
    written = {"do_sample": False, **silent}
    assert generation_defaults(written) == ({"temperature": 0.0, "repetition_penalty": 1.1}, ())
    got = resolved({}, generation=written)
    assert (got.params.temperature, got.origins["temperature"]) == (0.0, "generation_config")
    assert resolved({"temperature": 1.0}, generation=written).params.temperature == 1.0
    assert generation_defaults({"eos_token_id": 2}) == ({}, ())


@pytest.mark.parametrize("value", [5.0, -1, "hot", True, NAN, [1]])
def test_an_unusable_default_of_the_model_is_noted_not_obeyed(value):
    values, notes = generation_defaults({"temperature": value, "top_p": None, "top_k": 7})
    assert values == {"top_k": 7}
    assert len(notes) == 1
    assert notes[0].startswith("generation_config.json: temperature must be ")
    got = resolved({}, generation={"temperature": value})
    assert (got.params.temperature, got.origins["temperature"]) == (1.0, "default")


def test_what_a_model_asks_of_transformers_alone_is_told():
    neutral = GenerationConfig().to_dict() | {
        "num_beams": 1,
        "suppress_tokens": [],
        "min_length": 0,
    }
    assert generation_defaults(neutral)[1] == ()
    _, notes = generation_defaults({"suppress_tokens": [5, 6], "no_repeat_ngram_size": 3})
    assert notes == (
        "generation_config.json: suppress_tokens ([5, 6]) is not applied by this worker",
        "generation_config.json: no_repeat_ngram_size (3) is not applied by this worker",
    )


def test_every_default_that_exists_is_applied_or_inert_or_told():
    """All that transformers knows; and keys that it does not know, or not yet."""
    applied = {p.name for p in PARAMETERS if p.generation}
    theirs = {
        *GenerationConfig().to_dict(),
        "presence_penalty",
        "xtc_probability",
        "dry_multiplier",
    }
    theirs |= {"stop_token_ids", "a_key_of_tomorrow"}
    for key in theirs - applied:
        _, notes = generation_defaults({"num_beams": 4, key: 3.5})
        told = any(f" {key} (3.5) is not applied" in note for note in notes)
        assert told != (key in INERT), key
    assert applied <= theirs
    assert INERT & applied == set()
    # Nothing that changes which tokens are drawn is in the list of what changes nothing.
    drawing = {"num_beams", "typical_p", "suppress_tokens", "guidance_scale", "stop_strings"}
    assert INERT & drawing == set()


def test_a_limit_that_cuts_nothing_short_is_no_news():
    for key in ("max_length", "max_new_tokens"):
        assert generation_defaults({key: 4096}, context=4096)[1] == ()
        assert key in generation_defaults({key: 4095}, context=4096)[1][0]


def test_parts_of_what_is_off_are_no_news():
    mirostat = {"general.sampling.mirostat": 0, "general.sampling.mirostat_tau": 5.0}
    assert generation_defaults(mirostat)[1] == ()
    _, notes = generation_defaults({**mirostat, "general.sampling.mirostat": 2})
    assert notes == (
        "general.sampling.mirostat (2) is not applied by this worker",
        "general.sampling.mirostat_tau (5.0) is not applied by this worker",
    )
    assert generation_defaults({"length_penalty": 2.0})[1] == ()
    assert len(generation_defaults({"length_penalty": 2.0, "num_beams": 4})[1]) == 2


# ---- seeds, exempt ids, the report


def test_an_absent_seed_is_random_and_survives_doubles():
    seeds = {resolved().params.seed for _ in range(50)}
    assert len(seeds) == 50
    assert all(int(float(seed)) == seed for seed in seeds)
    assert resolved({"seed": 5}).origins["seed"] == "request"


def test_exempt_ids_are_the_templates_and_the_eos_set():
    eos = [EosToken(id=9, text="</s>", origins=("x",)), EosToken(id=2, text="", origins=())]
    got = resolved({}, template_exempt=[7, 9], eos=eos)
    assert got.exempt_ids == (2, 7, 9)


def test_the_report_names_value_and_origin_of_each():
    got = report(resolved({"top_k": 5}, template_exempt=[3]))
    assert got["top_k"] == {"value": 5, "origin": "request"}
    assert got["temperature"] == {"value": 1.0, "origin": "default"}
    assert got["repetition_exempt_ids"]["value"] == (3,)
    msgspec.json.encode(got)


# ---- the context


def test_an_asked_length_must_fit_and_a_default_is_cut():
    asked = resolved({"max_tokens": 100})
    assert fit(asked, CONTEXT - 100, CONTEXT).max_tokens == 100
    with pytest.raises(InvalidRequest) as caught:
        fit(asked, CONTEXT - 99, CONTEXT)
    [error] = caught.value.errors
    assert error.field == "max_tokens"
    assert "413 tokens and max_tokens 100 exceed the context of 512" in error.message
    silent = resolved()
    assert fit(silent, CONTEXT - 1, CONTEXT).max_tokens == 1
    assert fit(silent, 10, CONTEXT).max_tokens == 128


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("request_", [{}, {"max_tokens": 3}])
def test_a_prompt_that_fills_the_context_is_refused_with_both_sizes(surface, request_):
    for tokens in (CONTEXT, CONTEXT + 1, 10 * CONTEXT):
        with pytest.raises(InvalidRequest) as caught:
            fit(resolved(request_, surface), tokens, CONTEXT)
        [error] = caught.value.errors
        assert error.field == "prompt"
        assert str(tokens) in error.message
        assert str(CONTEXT) in error.message


def test_no_tokens_at_all_only_with_echo():
    got = resolved({"max_tokens": 0, "echo": True}, "completions")
    assert fit(got, CONTEXT, CONTEXT).max_tokens == 0
    with pytest.raises(InvalidRequest):
        fit(got, CONTEXT + 1, CONTEXT)
    assert errors({"max_tokens": 0, "echo": False}, "completions")[0].field == "max_tokens"
    assert errors({"max_tokens": False, "echo": True}, "completions")[0].field == "max_tokens"


def test_min_tokens_cannot_exceed_max_tokens():
    assert resolved({"min_tokens": 200, "max_tokens": 200}).params.min_tokens == 200
    [error] = errors({"min_tokens": 5, "max_tokens": 4})
    assert (error.field, error.value) == ("min_tokens", 5)
    assert [e.field for e in errors({"min_tokens": 5, "max_tokens": -4})] == ["max_tokens"]
    chat = resolved({"min_tokens": 100}, "chat")
    assert fit(chat, 412, CONTEXT).min_tokens == 100
    with pytest.raises(InvalidRequest, match="min_tokens"):
        fit(chat, 413, CONTEXT)


@given(st.integers(1, 2000), st.integers(1, 600), st.none() | st.integers(1, 600))
def test_what_fits_never_exceeds_the_context(tokens, context, asked):
    request = {} if asked is None else {"max_tokens": asked}
    try:
        got = fit(resolve(request, surface="job", vocab_size=9, context=context, generation={}),
                  tokens, context)  # fmt: skip
    except InvalidRequest:
        assert tokens + (asked or 1) > context
    else:
        assert tokens + got.max_tokens <= context
        assert got.max_tokens == (asked or min(128, context - tokens))


# ---- prompts


def prompted(**prompt: Any) -> None:
    check_request(Request(id="r", **prompt), Rules(context=4, vocab_size=10, template="{{ x }}"))


def test_prompts_that_may_be_tokenized():
    prompted(prompt="x" * 64)
    prompted(token_ids=(0, 9, 3, 3))
    prompted(messages=({"role": "user", "content": "x" * 60},))


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({}, "none of them"),
        ({"prompt": "x", "token_ids": (1,)}, "prompt and token_ids"),
        ({"prompt": ""}, "is empty"),
        ({"token_ids": ()}, "is empty"),
        ({"messages": ()}, "is empty"),
        ({"prompt": "SECRET" * 11}, "has 66 characters and the limit is 64"),
        ({"messages": ({"role": "user", "content": "SECRET" * 11},)}, "has 66 characters"),
        (
            {"messages": ({"role": "user", "content": [{"type": "text", "text": "SECRET"}] * 11},)},
            "has 66 characters",
        ),
        ({"token_ids": (1, 2, 3, 4, 5)}, "has 5 ids; the limit is 4"),
        ({"token_ids": (1, 10)}, "entry 1 is no id"),
        ({"token_ids": (True,)}, "entry 0 is no id"),
        ({"token_ids": (-1,)}, "entry 0 is no id"),
    ],
)
def test_prompts_that_may_not(prompt, words):
    with pytest.raises(InvalidRequest) as caught:
        prompted(**prompt)
    assert words in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_one_checker_tells_the_faults_of_the_prompt_and_of_every_parameter_together():
    rules = Rules(context=4, vocab_size=10)
    talk = ({"role": "user", "content": None}, {"role": "assistant", "content": None})
    request = Request(id="r", messages=talk, params={"top_p": 0, "temprature": 1})
    with pytest.raises(InvalidRequest) as caught:
        check_request(request, rules)
    assert [e.field for e in caught.value.errors] == [
        "messages[0].content",
        "messages",  # no chat template
        "top_p",
        "temprature",
    ]


# ---- the table itself


def test_a_surface_has_each_key_once_and_all_the_documented_ones():
    for surface in SURFACES:
        keys = [key for p in PARAMETERS if surface in p.surfaces for key in (p.name, *p.aliases)]
        assert len(keys) == len(set(keys))
    documented = (
        "prompt messages token_ids max_tokens temperature top_p top_k min_p repetition_penalty "
        "repeat_penalty repeat_last_n presence_penalty frequency_penalty logit_bias seed stop "
        "stop_token_ids ignore_eos min_tokens logprobs echo skip_special_tokens speculation"
    )
    assert set(documented.split()) <= set(names("job"))


def test_the_description_is_json_with_ranges_and_defaults():
    rows = json.loads(json.dumps(describe()))
    by_name = {row["name"]: row for row in rows if "job" in row["surfaces"]}
    assert by_name["temperature"]["range"] == "[0, 2]"
    assert by_name["top_p"]["range"] == "(0, 1]"
    assert by_name["top_k"]["range"] == ">= 0"
    assert by_name["repetition_penalty"]["aliases"] == ["repeat_penalty"]
    assert by_name["seed"]["range"] == "[0, 18446744073709551615]"
    assert by_name["user"]["role"] == "inert"
    assert by_name["tools"]["role"] == "transport"
    assert by_name["functions"]["role"] == "unsupported"
    assert "llama.cpp" in by_name["repeat_last_n"]["meaning"]
    assert all(row["meaning"] for row in rows)
    assert all(row["range"] for row in rows if row["role"] == "sampling")


# ---- the command line


def test_every_field_is_an_option_with_its_aliases():
    found = {option.parameter.name: option for option in options()}
    fields = {f.name for f in msgspec.structs.fields(SamplingParams)}
    assert set(found) == fields - {"constraint"}  # tests/test_constraint_params.py
    assert found["repetition_penalty"].flags == ("--repetition-penalty", "--repeat-penalty")
    assert found["stop"].repeated
    assert found["echo"].switch
    assert "[default: 1.0; in a conversation 0.8]" in found["temperature"].help
    assert "[default: 128; in a conversation the rest of the context]" in found["max_tokens"].help
    assert "(0, 1]" in found["top_p"].help


@pytest.mark.parametrize(
    ("name", "texts", "want"),
    [
        ("temperature", "0.7", 0.7),
        ("repeat-penalty", "1.1", 1.1),
        ("max_tokens", ["12"], 12),
        ("stop", ["a", "b,c"], ["a", "b,c"]),
        ("stop-token-ids", ["1,2", "3"], [1, 2, 3]),
        ("logit-bias", ["5=-1.5", "6=2,7=3"], {"5": -1.5, "6": 2.0, "7": 3.0}),
        ("ignore_eos", "on", True),
        ("echo", "False", False),
        ("seed", "default", None),
        ("seed", str(2**64 - 1), 2**64 - 1),
    ],
)
def test_text_becomes_the_json_value_that_resolves(name, texts, want):
    value = from_text(name, texts)
    assert value == want
    resolved({name.replace("-", "_"): value}, "generate")


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("temperature", "hot"),
        ("top_k", "1.5"),
        ("top_k", ["1", "2"]),
        ("logit_bias", "5"),
        ("logit_bias", "a=1"),
        ("stop_token_ids", "x"),
        ("echo", "maybe"),
        ("nonsense", "1"),
        ("prompt", "x"),
    ],
)
def test_text_that_is_no_value_is_a_usage_error_with_a_fix(name, texts):
    with pytest.raises(UsageError, match="Fix: "):
        from_text(name, texts)


def test_parameters_import_neither_torch_nor_numpy():
    code = "import sys, rbee_worker.params; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_parameter_that_a_person_may_want_is_in_one_group() -> None:
    grouped = [name for group in GROUPS.values() for name in group]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) <= {p.name for p in PARAMETERS}
    drawn = {p.name for p in PARAMETERS if p.role == "sampling"}
    assert drawn <= set(grouped)
    assert {p["name"]: p["group"] for p in describe()}["top_k"] == "Sampling"


def test_what_a_conversation_samples_with_if_it_gives_nothing() -> None:
    generation = {"temperature": 0.6, "top_k": 20}
    rules = Rules(context=4096, vocab_size=64, generation=generation, worker={"top_k": 30})
    for found in (defaults_of(rules, "chat"), defaults_of(rules, "job", chat=True)):
        assert found["temperature"] == {"value": 0.6, "origin": "generation_config"}
        assert found["top_k"] == {"value": 30, "origin": "worker option"}
        assert found["top_p"] == {"value": 0.95, "origin": "worker default (chat)"}
        assert found["repeat_last_n"] == {"value": 128, "origin": "default"}
        assert found["max_tokens"] == {"value": 4096, "origin": "worker default (chat)"}
        assert found["seed"] == {"value": None, "origin": "random"}


@pytest.mark.parametrize(("chat", "wanted"), [(True, 4096), (False, 128)])
@pytest.mark.parametrize("surface", ["job", "generate"])
def test_a_conversation_may_be_as_long_as_the_context(
    surface: Literal["job", "generate"], chat: bool, wanted: int
) -> None:
    found = resolve({}, surface=surface, vocab_size=64, context=4096, generation={}, chat=chat)
    assert found.params.max_tokens == wanted
    assert fit(found, 96, 4096).max_tokens == min(wanted, 4000)
