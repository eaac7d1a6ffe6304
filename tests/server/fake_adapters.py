"""`LoadedAdapters` for tests: nothing is read, and nothing computed."""

from __future__ import annotations

from collections.abc import Callable

from rbee_worker.adapter_spec import AdapterSpec
from rbee_worker.errors import AdapterError
from rbee_worker.model_info import AdapterInfo


def adapter(name: str, *, ref: str = "/adapter", scale: float = 1.0) -> AdapterInfo:
    """A loaded adapter."""
    return AdapterInfo(name=name, ref=ref, key=f"key of {ref}", scale=scale, rank=4, nbytes=512)


class FakeAdapters:
    """It takes any, and another one of the same name in its place."""

    most = 8

    def __init__(self, infos: tuple[AdapterInfo, ...], used: Callable[[str], bool]) -> None:
        """used: whether a live request uses the adapter of this name."""
        self.infos = infos
        self._used = used

    async def load(self, spec: AdapterSpec) -> AdapterInfo:
        if spec.ref == "/damaged":
            raise AdapterError(f"{spec.ref}: damaged.", fix="fetch it again")
        info = adapter(spec.name, ref=spec.ref, scale=spec.scale)
        self.infos = (*(i for i in self.infos if i.name != spec.name), info)
        return info

    def unload(self, name: str) -> AdapterInfo:
        if self._used(name):
            raise AdapterError(f"1 request uses the adapter {name!r} now.", fix="wait")
        (info,) = (i for i in self.infos if i.name == name)
        self.infos = tuple(i for i in self.infos if i.name != name)
        return info
