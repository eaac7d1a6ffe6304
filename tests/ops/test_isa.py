"""What a system must have for the cpu backend is said in one sentence where it lacks it."""

import platform
import sys

import pytest

from rbee_worker.errors import UsageError
from rbee_worker.ops.cpu.shared import isa


@pytest.mark.parametrize("system", ["darwin", "win32", "freebsd14"])
def test_other_systems_are_told_that_linux_is_needed(monkeypatch, system):
    monkeypatch.setattr(sys, "platform", system)
    assert isa.unsupported() == f"the cpu backend's threads need Linux, this is {system}."
    with pytest.raises(UsageError, match=f"this is {system}. Fix: use --backend reference"):
        isa.target("portable")


@pytest.mark.parametrize("machine", ["riscv64", "ppc64le", "s390x", "armv7l", "i686"])
def test_other_processors_are_named(monkeypatch, machine):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "platform", "linux")
    assert (
        isa.unsupported()
        == f"the cpu backend has kernels for x86-64 and 64-bit ARM, this is {machine}."
    )


def test_a_python_of_32_bits_is_told(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert isa.unsupported() == "the cpu backend needs a 64-bit Python, this one has 32 bits."


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_linux_on_known_processors_has_it(monkeypatch, machine):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert isa.unsupported() is None
