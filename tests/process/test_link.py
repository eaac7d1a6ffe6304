"""The client's end of the link: what it hears of an engine that is about to be gone."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from rbee_worker.engine.messages import Ping, Preempted
from rbee_worker.process.link import Link, socket_pair
from rbee_worker.process.port import frame

LIMIT_S = 20.0


@pytest.mark.parametrize("first", [True, False], ids=["it had not read all", "nothing is written"])
def test_what_an_engine_said_before_it_was_gone_is_heard(first: bool) -> None:
    """Its last words say which requests it was running. Linux reports an error where it had not
    read what was written to it, and where more is written afterwards."""
    said = [Preempted(seq=str(n), tokens=n) for n in range(2000)]

    async def main() -> None:
        ours, theirs = socket_pair()
        link = await Link.over(ours)
        if first:
            link.send(Ping())
        theirs.settimeout(LIMIT_S)
        theirs.sendall(b"".join(frame(msgspec.msgpack.encode([m])) for m in said))
        theirs.close()
        if not first:
            link.send(Ping())  # it is gone
        await asyncio.sleep(0.05)  # both ends are reported as gone
        for m in said:
            assert await link.receive() == [m]
        assert await link.receive() is None
        assert await link.receive() is None
        await link.close()

    asyncio.run(asyncio.wait_for(main(), LIMIT_S))


def test_frames_come_whole_however_they_were_cut() -> None:
    said = [Preempted(seq="s" * n, tokens=n) for n in range(40)]

    async def main() -> None:
        ours, theirs = socket_pair()
        link = await Link.over(ours)
        for byte in b"".join(frame(msgspec.msgpack.encode([m])) for m in said):
            theirs.sendall(bytes([byte]))
            await asyncio.sleep(0)
        for m in said:
            assert await link.receive() == [m]
        theirs.sendall(frame(b"half of it")[:-3])
        theirs.close()
        assert await link.receive() is None
        await link.close()

    asyncio.run(asyncio.wait_for(main(), LIMIT_S))
