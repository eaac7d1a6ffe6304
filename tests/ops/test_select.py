"""Which backend a worker gets, and that it is said where `auto` is not the fast one."""

import importlib.util

import pytest

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.ops.select import backend_name, backend_notes


def test_auto_is_the_compiled_backend_where_it_can_be_had() -> None:
    assert backend_name(Settings()) == "cpu"
    assert backend_notes(Settings()) == ()
    assert backend_name(Settings(backend="reference")) == "reference"


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"dtype": "bf16"}, "not in bf16"), ({"block_size": 24}, "--block-size 24")],
)
def test_auto_falls_back_aloud_and_cpu_refuses(settings: dict[str, object], words: str) -> None:
    assert backend_name(Settings(**settings)) == "reference"
    assert words in backend_notes(Settings(**settings))[0]
    assert backend_notes(Settings(backend="reference", **settings)) == ()
    with pytest.raises(UsageError, match=words):
        backend_name(Settings(backend="cpu", **settings))


def test_without_its_compiler_auto_is_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backend_name(Settings()) == "reference"
    assert "llvmlite is not installed" in backend_notes(Settings())[0]
