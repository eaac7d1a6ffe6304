"""The adapters that requests can name: which are loaded, who uses them, and how they come back
after an engine is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

from rbee_worker.adapter_spec import AdapterSpec, parse_specs, written
from rbee_worker.config import Settings
from rbee_worker.engine.messages import AdapterLoaded, AdapterRefused, LoadAdapter, UnloadAdapter
from rbee_worker.errors import AdapterError, EngineLost, FieldError, InvalidRequest, NotReady
from rbee_worker.model_info import AdapterInfo
from rbee_worker.observe import log
from rbee_worker.process.link import Link
from rbee_worker.types import Request

_log = log.logger("adapters")

Stamp = tuple[tuple[str, int, int], ...]  # name, size and time of change of files


def _stamp(ref: str) -> Stamp:
    """Of the files of an adapter; () if they cannot be seen."""
    path = Path(ref)
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        stats = [(file.name, file.stat()) for file in files]
    except OSError:
        return ()
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


class LoadedAdapters:
    """Adapters by name. They belong to the text side: an engine that takes another's place gets
    them again, and one that has changed meanwhile is not taken for the one that was there.

    most: how many can be loaded together.
    """

    def __init__(self, settings: Settings, check_ready: Callable[[], None]) -> None:
        """check_ready: raises NotReady unless there is an engine that serves."""
        self._settings = settings
        self._check_ready = check_ready
        self.most = len(parse_specs(settings.lora)) + settings.lora_slots
        self._infos: dict[str, AdapterInfo] = {}
        self._stamps: dict[str, Stamp] = {}  # of the files that each was loaded from
        self._uses: Counter[str] = Counter()
        self._loading: dict[str, asyncio.Future[AdapterInfo]] = {}
        self._link: Link | None = None

    @property
    def infos(self) -> tuple[AdapterInfo, ...]:
        """What is loaded, in the order of loading."""
        return tuple(self._infos.values())

    # ---- requests

    def check(self, request: Request) -> None:
        """Raise InvalidRequest unless the request's adapter is loaded, and still what it was."""
        name, key = request.adapter, request.adapter_key
        if not name:
            return
        info = self._infos.get(name)
        if info is None or (key and info.key != key):
            what = "is not loaded" if info is None else "is not the one that was loaded"
            message = f"the adapter {name[:64]!r} {what}"
            raise InvalidRequest([FieldError("model", "a loaded adapter", message)])

    def hold(self, request: Request) -> str:
        """Use a request's adapter: it stays until `release`. Returns the engine's key for it."""
        if not request.adapter:
            return ""
        self.check(request)
        self._uses[request.adapter] += 1
        return self._infos[request.adapter].key

    def release(self, request: Request) -> None:
        """End one use."""
        if request.adapter:
            self._uses[request.adapter] -= 1

    # ---- loading and unloading

    async def load(self, spec: AdapterSpec) -> AdapterInfo:
        """Load an adapter, fetched first if it is remote. Raises AdapterError, BadReference,
        CheckpointError, NotReady, EngineLost."""
        self._check_ready()
        from rbee_worker.adapters import local_spec  # late: few workers load any

        spec = await asyncio.to_thread(local_spec, spec, self._settings.cache_dir)
        if spec.name in self._infos or spec.name in self._loading:
            raise AdapterError(
                f"an adapter named {spec.name!r} is loaded already.", fix="unload it first."
            )
        if self._link is None:
            raise NotReady("restarting", "Not ready: the engine is being restarted.")
        if len(self._infos) + len(self._loading) >= self.most:
            raise AdapterError(
                f"all {self.most} places for adapters are taken.",
                fix="unload one, or start with a higher --lora-slots.",
            )
        told = self._loading[spec.name] = asyncio.get_running_loop().create_future()
        self._link.send(LoadAdapter(spec=spec))
        try:
            info: AdapterInfo = await told
        finally:
            del self._loading[spec.name]
        self._add(info)
        return info

    def unload(self, name: str) -> AdapterInfo:
        """Unload an adapter that no request uses. Raises AdapterError, NotReady."""
        self._check_ready()
        info = self._infos.get(name)
        if info is None:
            raise AdapterError(f"no adapter named {name[:64]!r} is loaded.", fix="list them.")
        if uses := self._uses[name]:
            requests = "1 request uses" if uses == 1 else f"{uses} requests use"
            raise AdapterError(
                f"{requests} the adapter {name!r} now.", fix="cancel them, or wait for their end."
            )
        if self._link is None:
            raise NotReady("restarting", "Not ready: the engine is being restarted.")
        del self._infos[name]
        self._link.send(UnloadAdapter(key=info.key))
        return info

    def heard(self, m: AdapterLoaded | AdapterRefused) -> None:
        """The engine's answer to `load`."""
        name = m.info.name if isinstance(m, AdapterLoaded) else m.name
        told = self._loading.get(name)
        gone = told is None or told.done()
        if isinstance(m, AdapterLoaded):
            if not gone and told is not None:
                told.set_result(m.info)
            elif self._link is not None:  # whoever asked has left
                self._link.send(UnloadAdapter(key=m.info.key))
        elif not gone and told is not None:
            told.set_exception(AdapterError(m.message))

    # ---- engines come and go

    def engine_ready(self, link: Link, loaded: Sequence[AdapterInfo]) -> None:
        """An engine has loaded these: those of --lora, or those that the one before it had."""
        self._link = link
        first = not self._infos
        for info in loaded:
            known = self._infos.get(info.name)
            if first or (known is not None and known.key == info.key):
                self._add(info)
            else:
                link.send(UnloadAdapter(key=info.key))
        if not first:
            self._forget({*self._infos} - {i.name for i in loaded if self._same(i)})

    def engine_lost(self) -> None:
        """The engine is gone, and with it what it was loading."""
        self._link = None
        for told in self._loading.values():
            if not told.done():
                told.set_exception(EngineLost("the engine was lost while it loaded the adapter."))

    def settings(self) -> Settings:
        """The settings of the next engine: with what is loaded now and still there."""
        if not self.most:
            return self._settings
        self._forget({name for name, info in self._infos.items() if not Path(info.ref).exists()})
        specs = [AdapterSpec(name=i.name, ref=i.ref, scale=i.scale) for i in self._infos.values()]
        left = max(self.most - len(specs), 0)
        return replace(self._settings, lora=written(specs), lora_slots=left)

    def drop_damaged(self, why: str) -> None:
        """An engine could not load all of them: give up those whose files have changed, or all if
        none has, and serve what is left."""
        changed = [n for n, info in self._infos.items() if _stamp(info.ref) != self._stamps[n]]
        for name in changed or [*self._infos]:
            _log.error("the adapter %s is given up: %s", name, why)
            del self._infos[name]

    def _add(self, info: AdapterInfo) -> None:
        self._infos[info.name] = info
        self._stamps[info.name] = _stamp(info.ref)

    def _same(self, info: AdapterInfo) -> bool:
        known = self._infos.get(info.name)
        return known is not None and known.key == info.key

    def _forget(self, names: Iterable[str]) -> None:
        """Adapters whose files are gone or have changed since they were loaded."""
        for name in sorted(names):
            _log.error("the adapter %s is gone: its files are not what they were", name)
            del self._infos[name]
