"""What the parts of `CpuOps` share: the recording under way, and handles in place of tensors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rbee_worker.ops import Ops, RopeSpec
from rbee_worker.ops.batch import Array
from rbee_worker.ops.cpu.runtime.arena import Arena
from rbee_worker.ops.cpu.runtime.matrix import Holder
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.recorder import Buf, Recorder
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared.reading import UNMEASURED, Reading
from rbee_worker.ops.cpu.shared.regions import Region
from rbee_worker.state.specs import StateGroup


@dataclass
class Recording:
    """What a model is recorded for: its state, how that is kept, how many threads will share."""

    recorder: Recorder
    groups: tuple[StateGroup, ...]
    kv: str  # dtype of keys and values
    block_size: int
    longest: int  # tokens of a sequence
    ropes: list[RopeSpec] = field(default_factory=list)
    attend_items: dict[Hashable, Region] = field(default_factory=dict)  # lists of `attend.plan`


class RecordingOps(Ops):
    """A backend whose operations append entries to the recording under way."""

    library: Library
    team: Team
    arena: Arena
    exact: bool
    holder: Holder
    readings: Mapping[str, Reading]  # of product kernels, by name
    recording: Recording | None

    @property
    def now(self) -> Recording:
        """The recording under way."""
        assert self.recording is not None, "operations of this backend are only recorded"
        return self.recording

    def _reading(self, kernel: str) -> dict[str, Any]:
        """How a product kernel reads its weights, as its arguments."""
        return self.readings.get(kernel, UNMEASURED)._asdict()

    def _result(self, width: int) -> Buf:
        """A new activation, private to each thread where threads would have nothing to split."""
        rec = self.now.recorder
        return rec.buffer(width, private=rec.replicates(width))

    @abstractmethod
    def _prepare(self, x: Buf, form: str) -> Region:
        """x as products want it, in that form (`kernels/prepare.py`)."""


def buf_of(x: Array, width: int | None = None) -> Buf:
    """The handle that stands for an activation, `width` columns wide if that is said."""
    assert isinstance(x, Buf), "an activation of another backend"
    assert width is None or x.width == width, f"{x.width} columns, expected {width}"
    return x


def slot_of(region: Region) -> Any:
    """The address of a region's first byte."""
    return Buf(region, 0, 0).slot


def pointer(vector: Array | None) -> Any:
    """A vector as a kernel's argument, 0 for none."""
    assert vector is None or vector.dtype == np.float32
    return 0 if vector is None else vector


def equal_parts(width: int, parts: int) -> int:
    """The width of one of `parts` equal parts."""
    assert width % parts == 0, f"{width} columns do not make {parts} equal parts"
    return width // parts
