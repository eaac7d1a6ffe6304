"""Which way each product kernel reads its weights here: measured once, kept beside the kernels.

A file for each processor has the rates that were measured. One that cannot be read, or has none of
a kernel as it is now, is measured again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from rbee_worker.errors import UsageError
from rbee_worker.machine import processor
from rbee_worker.ops.cpu.runtime.kernel_cache import folder
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.reading_speed import Bench, speeds
from rbee_worker.ops.cpu.shared.forms import parse
from rbee_worker.ops.cpu.shared.held import HELD
from rbee_worker.ops.cpu.shared.isa import Isa
from rbee_worker.ops.cpu.shared.kernel_files import TEMPORARY, stem
from rbee_worker.ops.cpu.shared.kernel_sources import is_kernel
from rbee_worker.ops.cpu.shared.reading import ONE, SEVERAL, SHAPE, Reading, parsed

VARIABLE = "RBEE_CPU_READING"
AUTO, MEASURE = "auto", "measure"
FAMILIES = ("linear.", "stacked.")  # what names of kernels that read weights begin with

Measure = Callable[[Sequence[str]], Mapping[str, Mapping[str, float]]]


class Measured(msgspec.Struct, frozen=True):
    """Rates of one kernel. stem: names its sources. rates: GB/s by way to read, as `speeds`."""

    stem: str
    rates: dict[str, float]

    @property
    def fastest(self) -> Reading | None:
        """The fastest of the ways that there are now; None if one was not measured."""
        ways = {*(r.with_one for r in ONE), *(r.with_several for r in SEVERAL)}
        if not ways <= self.rates.keys():
            return None
        one = max(ONE, key=lambda r: self.rates[r.with_one])
        several = max(SEVERAL, key=lambda r: self.rates[r.with_several])
        return one._replace(far=several.far)


class Kept:
    """The file of one processor (`cpu`, else this one), for kernels of `isa`."""

    def __init__(self, isa: Isa, *, cache_dir: str = "", cpu: str = "") -> None:
        digest = sha256((cpu or processor()).encode()).hexdigest()
        self._path = folder(isa, cache_dir) / f"readings-{digest[:16]}.json"

    def read(self) -> dict[str, Measured]:
        """Of each kernel that has not changed since."""
        with suppress(OSError, msgspec.DecodeError):
            kept = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Measured])
            return {n: m for n, m in kept.items() if is_kernel(n) and m.stem == self._stem(n)}
        return {}

    def add(self, rates: Mapping[str, Mapping[str, float]]) -> str:
        """Write them beside those that are kept. Returns why they could not be written, or ""."""
        new = {name: Measured(self._stem(name), dict(found)) for name, found in rates.items()}
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}{TEMPORARY}")
        try:
            temporary.write_bytes(msgspec.json.encode(self.read() | new))
            temporary.replace(self._path)
        except OSError as error:
            return f"{self._path.parent}: {error.strerror or error}"
        return ""

    def _stem(self, name: str) -> str:
        return stem(name, self._path.parent)


def asked() -> Reading | str:
    """The environment's wish: one reading for all kernels, AUTO or MEASURE. Raises UsageError."""
    text = os.environ.get(VARIABLE, "") or AUTO
    found = text if text in (AUTO, MEASURE) else parsed(text)
    if found is None:
        raise UsageError(
            f"{VARIABLE}={text!r} is not a way to read weights.",
            fix=f"unset it, or use {AUTO}, {MEASURE} or {SHAPE}, such as 1:0:4096 or 4:2048:next.",
        )
    return found


class Choice(NamedTuple):
    """The reading of each kernel. note: that it could not be kept, for people, or ""."""

    readings: dict[str, Reading]
    note: str = ""


def choose(
    kernels: Iterable[str], kept: Kept, measure: Measure, wish: Reading | str = AUTO
) -> Choice:
    """The reading of each kernel that reads weights: what `wish` says, else the fastest one kept,
    else the fastest that `measure` finds, which is then kept."""
    names, note = reading_kernels(kernels), ""
    if isinstance(wish, Reading):
        return Choice(dict.fromkeys(names, wish))
    known = {} if wish == MEASURE else fastest(kept.read())
    if missing := [name for name in names if name not in known]:
        rates = measure(missing)
        found = fastest({name: Measured("", dict(of)) for name, of in rates.items()})
        known |= found
        if why := kept.add(rates):
            note = (
                "every start measures again how this processor reads weights, because it cannot be "
                f"kept in {why}. Fix: make that writable, choose another --cache-dir, or set "
                f"{VARIABLE}={found[missing[0]]}, which was measured now."
            )
    return Choice({name: known[name] for name in names}, note)


def fastest(measured: Mapping[str, Measured]) -> dict[str, Reading]:
    """The fastest reading of each kernel whose rates are complete."""
    return {name: r for name, m in measured.items() if (r := m.fastest) is not None}


def shown(kept: Kept) -> dict[str, dict[str, Any]]:
    """What is kept or asked for, for people; see `Backend.readings`. Raises UsageError as `asked`
    does."""
    wish, found = asked(), kept.read()
    ways = fastest(found)
    if isinstance(wish, Reading):
        unmeasured = {held: f"linear.{held}" for held in HELD} | {_held(n): n for n in ways}
        ways = dict.fromkeys({*ways, *unmeasured.values()}, wish)
    return {
        name: {
            "held": _held(name),
            "way": str(way),
            "gb_s": found[name].rates if name in found else {},
        }
        for name, way in sorted(ways.items())
    }


def _held(kernel: str) -> str:
    """The format of the weights that a kernel reads."""
    return parse(kernel.partition(".")[2])[0].name


def reading_kernels(kernels: Iterable[str]) -> list[str]:
    """Those of the kernels that read weights."""
    return [name for name in kernels if name.startswith(FAMILIES)]


def chosen(library: Library, kernels: Iterable[str], *, cache_dir: str = "") -> Choice:
    """`choose` on this machine. Raises UsageError for a wish that makes no sense."""

    def measure(names: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        library.load(names)
        return speeds(Bench(library).rate, names)

    return choose(kernels, Kept(library.isa, cache_dir=cache_dir), measure, asked())
