"""The adapters that an engine has loaded: which slot of the backend's memory each is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Struct

from rbee_worker.adapter_spec import AdapterSpec
from rbee_worker.errors import AdapterError
from rbee_worker.model_info import AdapterInfo
from rbee_worker.ops.adapted import AdapterMemory, Placed


class Opened(Struct, frozen=True):
    """An adapter that was read and checked against the model."""

    info: AdapterInfo
    placed: Placed


@dataclass(slots=True)
class _Slot:
    """names: how often it was loaded; it stays until it was unloaded as often."""

    number: int
    names: int = 1


class Adapters:
    """Adapters by key, which is a digest of their contents: equal ones share a slot.

    open: reads the adapter at a spec's path. Raises AdapterError for one that does not fit.
    """

    def __init__(
        self, memory: AdapterMemory, slots: int, open: Callable[[AdapterSpec], Opened]
    ) -> None:
        self._memory, self._open = memory, open
        self._free = list(range(slots, 0, -1))
        self._slots: dict[str, _Slot] = {}

    def load(self, spec: AdapterSpec) -> AdapterInfo:
        """Load an adapter. Raises AdapterError and other subclasses of ModelError."""
        opened = self._open(spec)
        known = self._slots.get(opened.info.key)
        if known is not None:
            known.names += 1
            return opened.info
        if not self._free:
            raise AdapterError(
                f"{spec.ref}: all {len(self._slots)} places for adapters are taken.",
                fix="unload one, or start with a higher --lora-slots",
            )
        slot = self._free.pop()
        self._memory.put(slot, opened.placed)
        self._slots[opened.info.key] = _Slot(slot)
        return opened.info

    def unload(self, key: str) -> None:
        """Forget an adapter. No step that runs, and no sequence, may use it."""
        slot = self._slots.get(key)
        if slot is None:
            return
        slot.names -= 1
        if not slot.names:
            del self._slots[key]
            self._memory.drop(slot.number)
            self._free.append(slot.number)

    def slot(self, key: str) -> int | None:
        """The slot of a loaded adapter; 0 for none ("")."""
        if not key:
            return 0
        found = self._slots.get(key)
        return None if found is None else found.number
