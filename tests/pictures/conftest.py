"""A worker whose text side is SmolVLM's in small, around a scripted engine that keeps what it is
sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.engine.messages import Submit
from tests.pictures.making import IDEFICS3, IDEFICS3_PROMPT, side, write
from tests.server.scripted import scripted_start
from tests.server.served import Served


@dataclass
class Looking:
    """served: the worker; seen: what its engine was sent, oldest first; folder: the model's."""

    served: Served
    folder: Path
    seen: list[Submit] = field(default_factory=list)

    def post(self, path: str, **body: Any) -> Any:
        return self.served.http.post(path, json=body)


def script(seen: list[Submit], folder: Path, ids: Sequence[int] = (5,)) -> Any:
    """Each request gets `ids`, and is kept in `seen`."""

    def answer(message: Submit) -> list[int]:
        seen.append(message)
        return list(ids)

    return scripted_start(answer, lambda: side(folder), pictures=True)


@pytest.fixture(scope="module")
def looking(tmp_path_factory: Any) -> Iterator[Looking]:
    folder: Path = tmp_path_factory.mktemp("looking")
    write(folder, "idefics3", IDEFICS3, IDEFICS3_PROMPT)
    seen: list[Submit] = []
    with Served(start=script(seen, folder)) as served:
        yield Looking(served, folder, seen)
