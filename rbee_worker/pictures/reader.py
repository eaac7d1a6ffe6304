"""`PictureReader`: files of pictures become the pixels that a model takes.

The decoders run in a child process with limits (`picture_child`), started when the first picture
comes. What a file's header shows is refused before that: other formats, too many bytes or pixels.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.pictures.header import READ, NotRead, look
from rbee_worker.pictures.limits import Limits
from rbee_worker.pictures.picture import digest_of
from rbee_worker.pictures.prompt import Grid
from rbee_worker.pictures.recipe import Recipe
from rbee_worker.tokenizer.confined import Confined, TooMuch
from rbee_worker.types import PictureFile

_SCRIPT = Path(__file__).with_name("picture_child.py")
_MODULES = ("rbee_worker", "msgspec", "PIL")
_CPU_S, _WALL_S = 20.0, 60.0  # for one picture
_MEMORY = 512 << 20  # bytes of address space, besides those of the pixels
_PIXEL = 16  # bytes of a pixel that is allowed: Pillow has 4, and makes copies
_KEPT = 64 << 20  # bytes of tiles that are kept, because conversations send pictures again


@dataclass(frozen=True)
class Tiles:
    """A picture resized and cut: pixels [tiles, height, width, 3] with their shape and digest."""

    pixels: bytes
    shape: tuple[int, int, int]
    digest: bytes
    grid: Grid


class PictureReader:
    """One recipe. Threads may share it; pictures are decoded one at a time."""

    def __init__(self, recipe: Recipe, limits: Limits) -> None:
        self.recipe, self.limits = recipe, limits
        self._lock = threading.Lock()
        memory = _MEMORY + _PIXEL * limits.pixels
        self._child = Confined(
            _SCRIPT, modules=_MODULES, limits=(str(_CPU_S), str(memory)), what="picture"
        )
        self._known: OrderedDict[tuple[bytes, bool], Tiles] = OrderedDict()

    def read(self, files: Sequence[PictureFile]) -> tuple[Tiles, ...]:
        """The tiles of each picture. Raises InvalidRequest, which names every file at fault."""
        faults = self.faults(files)
        if faults:
            raise InvalidRequest(faults)
        tiles: list[Tiles] = []
        for file in files:
            found = self._tiles(file)
            if isinstance(found, FieldError):
                faults.append(found)
            else:
                tiles.append(found)
        if faults:
            raise InvalidRequest(faults)
        return tuple(tiles)

    def faults(self, files: Sequence[PictureFile]) -> list[FieldError]:
        """What can be said of files without decoding them."""
        most = self.limits
        if len(files) > most.count:
            message = f"{len(files)} pictures were sent; at most {most.count} are read"
            return [FieldError(files[most.count].field, f"<= {most.count} pictures", message)]
        return [fault for file in files if (fault := self._fault(file)) is not None]

    def _fault(self, file: PictureFile) -> FieldError | None:
        if len(file.data) > self.limits.bytes:
            most = f"{self.limits.bytes >> 10} KiB"
            message = f"has {-(-len(file.data) >> 10)} KiB; at most {most} are read"
            return FieldError(file.field, f"<= {most}", message)
        try:
            header = look(file.data)
        except NotRead as error:
            return FieldError(file.field, f"a file of {READ}", str(error))
        if header.width * header.height > self.limits.pixels:
            return self._too_large(file, f"{header.width} x {header.height}")
        return None

    def _too_large(self, file: PictureFile, size: str) -> FieldError:
        most = self.limits.pixels
        message = f"has {size} pixels; at most {most} in all are read: send a smaller one"
        return FieldError(file.field, f"<= {most} pixels", message)

    def close(self) -> None:
        """End the child process. The next picture starts another."""
        self._child.interrupt()  # also where a request waits for it
        with self._lock:
            self._child.close()

    def _tiles(self, file: PictureFile) -> Tiles | FieldError:
        pieces = self.recipe.cut_for(file.detail)
        key = (hashlib.blake2b(file.data, digest_size=16).digest(), pieces)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
            answer = self._ask(file.data, pieces)
            if "fault" in answer:
                return self._told(file, answer["fault"], answer["said"])
            shape = msgspec.convert(answer["shape"], tuple[int, int, int])
            grid = Grid(answer["rows"], answer["columns"])
            pixels = answer["attached"]
            found = Tiles(pixels, shape, digest_of(pixels, shape), grid)
            self._keep(key, found)
            return found

    def _keep(self, key: tuple[bytes, bool], found: Tiles) -> None:
        self._known[key] = found
        while sum(len(known.pixels) for known in self._known.values()) > _KEPT:
            self._known.popitem(last=False)

    def _told(self, file: PictureFile, fault: str, said: str) -> FieldError:
        """What the child found, for the caller. What the decoders say is not repeated."""
        if fault == "pixels":
            return self._too_large(file, said)
        constraint, message = {
            "animated": ("one picture", f"is animated ({said} frames): send one of them"),
            "mode": ("8 bits a channel", f"has pixels of the kind {said}: send 8 bits a channel"),
            "memory": ("a smaller picture", "takes too much memory to decode"),
            "time": ("a smaller picture", "takes too long to decode"),
        }.get(fault, ("a whole file", "is damaged or incomplete"))
        return FieldError(file.field, constraint, message)

    def _ask(self, data: bytes, pieces: bool) -> dict[str, Any]:
        asked = {
            "recipe": msgspec.to_builtins(self.recipe),
            "pieces": pieces,
            "most": self.limits.pixels,
            "attached": len(data),
        }
        try:
            return self._child.ask(lambda _: [json.dumps(asked).encode()], _WALL_S, data)
        except TooMuch as e:  # one that runs out of memory says so, one that crashes does not
            return {"fault": "damaged" if e.limit == "memory" else "time", "said": ""}
