"""Settings: one option and one variable for every field; precedence; what is refused and how."""

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from rbee_worker.config import ELSEWHERE, OPTIONS, Settings, parse, strangers
from rbee_worker.errors import UsageError

FIELDS = [f.name for f in msgspec.structs.fields(Settings)]


def test_every_field_has_exactly_one_option_and_variable() -> None:
    assert [o.field for o in OPTIONS] == FIELDS
    assert len({o.flag for o in OPTIONS}) == len({o.env for o in OPTIONS}) == len(FIELDS)


def test_spelling_of_flag_and_variable() -> None:
    row = next(o for o in OPTIONS if o.field == "kv_dtype")
    assert (row.flag, row.env) == ("--kv-dtype", "RBEE_KV_DTYPE")


def test_every_number_has_a_range_that_holds_its_default() -> None:
    for option in OPTIONS:
        if option.kind is int:
            assert option.low is not None
            assert option.high is not None
            assert option.low <= option.default <= option.high, option.field


def test_a_default_is_never_refused() -> None:
    given = {o.field: o.default if o.kind is bool else str(o.default) for o in OPTIONS}
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
        ({"backend": "cuda"}, {}, ["--backend cuda", "--backend reference"]),
        ({"tensor_parallel": "2"}, {}, ["--tensor-parallel 2", "--tensor-parallel 1"]),
        ({"attention": "flash"}, {}, ["--attention flash", "--attention auto"]),
        ({"kv_dtype": "f8"}, {}, ["--kv-dtype f8", "--kv-dtype f16"]),
        ({"device": "1"}, {}, ["--device 1", "--device 0"]),
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


def test_refused_values_are_not_offered() -> None:
    with pytest.raises(UsageError) as caught:
        parse({"backend": "tpu"}, {})
    assert caught.value.fix == "one of auto, reference, cpu."


# ---- variables that do not exist


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("RBEE_CTXX", "RBEE_CTX"),
        ("RBEE_KVDTYPE", "RBEE_KV_DTYPE"),
        ("RBEE_MAX_QUEU", "RBEE_MAX_QUEUE"),
        ("RBEE_API_TOKN", "RBEE_API_TOKEN"),
        ("RBEE_CPU_IAS", "RBEE_CPU_ISA"),
    ],
)
def test_a_variable_that_nothing_reads_is_named_with_the_nearest(name: str, near: str) -> None:
    [line] = strangers({name: "8", "RBEE_CTX": "8", "PATH": "/bin", "RBEE_EMPTY": ""})
    assert line.startswith(f"{name} ")
    assert line.endswith(f"did you mean {near}?")


def test_a_variable_like_none_is_named_too_and_its_value_is_not() -> None:
    [line] = strangers({"RBEE_XYZZY": "a secret"})
    assert line == "RBEE_XYZZY is read by nothing in this worker, and none is spelt like it."
    [line] = strangers({"RBEE_" + "\x1b[31m" * 200: "1"})
    assert len(line) < 300
    assert "\x1b" not in line


def test_every_variable_that_the_package_reads_is_known() -> None:
    root = Path(__file__).parents[1] / "rbee_worker"
    text = "\n".join(p.read_text() for p in root.rglob("*.py"))
    named = set(re.findall(r"\bRBEE_[A-Z][A-Z_]*[A-Z]\b", text)) - {"RBEE_TEST"}
    assert named <= {o.env for o in OPTIONS} | set(ELSEWHERE)
    assert not strangers(dict.fromkeys((*ELSEWHERE, *(o.env for o in OPTIONS)), "1"))


def test_commands_say_so_and_go_on() -> None:
    """On stderr, as a warning: another program may use the prefix."""
    env = {**os.environ, "RBEE_CTXX": "8", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "rbee_worker", "models"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "RBEE_CTXX is read by nothing in this worker; did you mean RBEE_CTX?" in done.stderr
