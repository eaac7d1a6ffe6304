"""Adapters for a model that is about to be loaded, or is: their sizes, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rbee_worker.adapter_spec import AdapterSpec, parse_specs
from rbee_worker.adapters import digest, open_adapter, place, planned_bytes
from rbee_worker.checkpoint import Checkpoint
from rbee_worker.config import Settings
from rbee_worker.engine.adapters import Adapters, Opened
from rbee_worker.errors import AdapterError, CheckpointError, UnsupportedModel
from rbee_worker.model_info import AdapterInfo
from rbee_worker.ops import Ops
from rbee_worker.ops.adapted import Sites


@dataclass(frozen=True)
class PlannedAdapter:
    """An adapter of --lora before it is read."""

    name: str
    ref: str
    rank: int
    nbytes: int


@dataclass(frozen=True)
class AdapterPlan:
    """What adapters will take. room: bytes reserved for `slots` more, which may be loaded later, at
    the highest rank in float32."""

    adapters: tuple[PlannedAdapter, ...] = ()
    slots: int = 0
    room: int = 0

    @property
    def nbytes(self) -> int:
        """All of it, in bytes."""
        return sum(adapter.nbytes for adapter in self.adapters) + self.room


NO_ADAPTERS = AdapterPlan()


def plan_adapters(ckpt: Checkpoint, settings: Settings, sites: Sites | None) -> AdapterPlan:
    """The sizes of the adapters of --lora and of the space for others. Reads headers only.

    sites: of the model, which is built from names and shapes. Raises AdapterError and other
    subclasses of ModelError.
    """
    if sites is None:
        return NO_ADAPTERS
    found = []
    for spec in parse_specs(settings.lora):
        with _about_adapters():
            adapter = open_adapter(Path(spec.ref), ckpt, spec.scale)
            nbytes = planned_bytes(adapter, sites, ckpt.source)
        found.append(PlannedAdapter(spec.name, spec.ref, adapter.rank, nbytes))
    room = settings.lora_slots * sites.bytes_at_rank(sites.rank, "f32")
    return AdapterPlan(tuple(found), settings.lora_slots, room)


def adapters_of(
    ckpt: Checkpoint, ops: Ops, settings: Settings
) -> tuple[Adapters | None, tuple[AdapterInfo, ...]]:
    """The engine's adapters, with those of --lora loaded. ops: what the model was built with.

    Raises AdapterError and other subclasses of ModelError.
    """
    if ops.sites is None:
        return None, ()
    adapters = Adapters(ops.adapters, ops.sites.slots, opener(ckpt, ops.sites))
    return adapters, tuple(adapters.load(spec) for spec in parse_specs(settings.lora))


def opener(ckpt: Checkpoint, sites: Sites) -> Callable[[AdapterSpec], Opened]:
    """A function that reads the adapter at a spec's path and checks it against the model."""

    def read(spec: AdapterSpec) -> Opened:
        with _about_adapters():
            adapter = open_adapter(Path(spec.ref), ckpt, spec.scale)
            placed = place(adapter, sites, ckpt.source)
        info = AdapterInfo(
            name=spec.name,
            ref=spec.ref,
            key=digest(placed),
            scale=spec.scale,
            rank=adapter.rank,
            nbytes=sum(f.nbytes for parts in placed.values() for f in parts if f is not None),
            base=adapter.base,
        )
        return Opened(info, placed)

    return read


@contextmanager
def _about_adapters() -> Iterator[None]:
    """Inside the block, a file that is damaged or of another kind is an adapter's: the model is
    well. Raises AdapterError for it."""
    try:
        yield
    except (CheckpointError, UnsupportedModel) as error:
        raise AdapterError(error.message, fix=error.fix) from None
