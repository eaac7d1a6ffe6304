"""Settings: one option and one variable for every field; precedence; what is refused and how."""

import re
from pathlib import Path

import msgspec
import pytest

from rbee_worker.config import (
    OPTIONS,
    OTHER_VARIABLES,
    SAMPLING,
    Settings,
    parse,
    unknown_variables,
)
from rbee_worker.errors import UsageError
from rbee_worker.params import names
from rbee_worker.params.parameter import MAX_INT

FIELDS = [f.name for f in msgspec.structs.fields(Settings)]


def test_every_field_has_exactly_one_option_and_variable() -> None:
    assert [o.field for o in OPTIONS] == FIELDS
    assert len({o.flag for o in OPTIONS}) == len({o.env for o in OPTIONS}) == len(FIELDS)


def test_spelling_of_flag_and_variable() -> None:
    row = next(o for o in OPTIONS if o.field == "kv_dtype")
    assert (row.flag, row.env) == ("--kv-dtype", "RBEE_KV_DTYPE")


def test_every_number_has_a_range_that_holds_its_default() -> None:
    for option in OPTIONS:
        if option.kind in (int, float):
            assert option.low is not None
            assert option.high is not None
            unset = option.default is None
            assert unset or option.low <= option.default <= option.high, option.field


def test_a_default_is_never_refused() -> None:
    told = [o for o in OPTIONS if o.default is not None]
    given = {o.field: o.default if o.kind is bool else str(o.default) for o in told}
    assert parse(given, {}) == Settings()


def test_defaults_then_environment_then_command_line() -> None:
    environ = {"RBEE_CTX": "100", "RBEE_DTYPE": "f16"}
    assert parse({}, {}).ctx == 0
    assert parse({}, environ).ctx == 100
    both = parse({"ctx": "200", "dtype": None}, environ)
    assert (both.ctx, both.dtype) == (200, "f16")


@pytest.mark.parametrize(
    ("text", "value"), [("0", False), ("no", False), ("ON", True), ("1", True)]
)
def test_switches_in_the_environment(text: str, value: bool) -> None:
    assert parse({}, {"RBEE_KV_CACHE": text}).kv_cache is value


def test_a_switch_off_on_the_command_line_wins_over_the_environment() -> None:
    assert parse({"kv_cache": False}, {"RBEE_KV_CACHE": "1"}).kv_cache is False


def test_an_empty_variable_is_not_set() -> None:
    assert parse({}, {"RBEE_DTYPE": "", "RBEE_CTX": ""}) == Settings()


@pytest.mark.parametrize(
    ("given", "environ", "says"),
    [
        ({"dtype": "f64"}, {}, ["--dtype f64", "auto, f32, bf16, f16"]),
        ({}, {"RBEE_DTYPE": "f64"}, ["RBEE_DTYPE=f64", "auto, f32, bf16, f16"]),
        ({"ctx": "many"}, {}, ["--ctx many", "whole number"]),
        ({"ctx": "1.5"}, {}, ["--ctx 1.5", "whole number"]),
        ({"ctx": "-1"}, {}, ["--ctx -1", "0 to"]),
        ({"max_seqs": "0"}, {}, ["--max-seqs 0", "1 to"]),
        ({}, {"RBEE_KV_CACHE": "maybe"}, ["RBEE_KV_CACHE=maybe", "true"]),
        ({"tensor_parallel": "2"}, {}, ["--tensor-parallel 2", "--tensor-parallel 1"]),
        ({"temperature": "warm"}, {}, ["--temperature warm", "not a number", "0 to 2"]),
        ({"temperature": "nan"}, {}, ["--temperature nan", "0 to 2"]),
        ({}, {"RBEE_TOP_P": "0"}, ["RBEE_TOP_P=0", "more than 0, up to 1"]),
        ({"top_k": "1.5"}, {}, ["--top-k 1.5", "whole number"]),
        ({"served_model_name": "a,,b"}, {}, ["--served-model-name a,,b", "empty"]),
        ({"served_model_name": "a, b,a"}, {}, ["--served-model-name a, b,a", "given twice"]),
        ({"device": "64"}, {}, ["--device 64", "0 to 63"]),
    ],
)
def test_what_cannot_work_is_refused_by_name_with_what_can(
    given: dict[str, str], environ: dict[str, str], says: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        parse(given, environ)
    assert [word for word in says if word not in str(caught.value)] == []
    assert caught.value.exit_code == 2
    assert caught.value.fix


def test_defaults_of_requests_have_the_ranges_of_requests() -> None:
    """A value that `serve` takes is one that a request may give."""
    rows = names("job")
    for name in SAMPLING:
        option = next(o for o in OPTIONS if o.field == name)
        least = min([rows[name].low, *rows[name].off])
        assert (option.low, option.above) == (least, rows[name].above), name
        assert option.high == (rows[name].high or MAX_INT), name
        assert option.kind is {"number": float, "integer": int}[rows[name].kind]


def test_defaults_of_requests_are_set_or_not() -> None:
    assert parse({}, {}).sampling == {}
    assert parse({"temperature": "0", "top_k": "-1"}, {"RBEE_SEED": "7"}).sampling == {
        "temperature": 0.0,
        "top_k": -1,
        "seed": 7,
    }
    assert parse({"served_model_name": " bee , hive"}, {}).served_names == ("bee", "hive")


def test_refused_values_are_not_offered() -> None:
    with pytest.raises(UsageError) as caught:
        parse({"backend": "tpu"}, {})
    assert caught.value.fix == "one of auto, reference, cpu, cuda."


def test_a_variable_that_does_not_exist_is_named_with_the_nearest() -> None:
    environ = {
        "RBEE_THREAD": "4",
        "RBEE_SECRET_KEY": "hunter2",
        "RBEE_TEST_MODEL": "x",
        "PATH": "/bin",
        **dict.fromkeys(OTHER_VARIABLES, "x"),
        **{option.env: "" for option in OPTIONS},
    }
    assert unknown_variables(environ) == [
        "the environment variable RBEE_SECRET_KEY is not one of this program's",
        "the environment variable RBEE_THREAD is not one of this program's; "
        "did you mean RBEE_THREADS?",
    ]


def test_every_variable_that_the_package_reads_is_known() -> None:
    files = (Path(__file__).parents[1] / "rbee_worker").rglob("*.py")
    read = {n for f in files for n in re.findall(r'"(RBEE_[A-Z_]+)"', f.read_text())}
    assert read - {option.env for option in OPTIONS} - {"RBEE_TEST_"} == set(OTHER_VARIABLES)
