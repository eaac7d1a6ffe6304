"""What the server costs on top of the engine: `python -m benchmarks.server`.

A worker process with the fake engine serves; another process reads. Two rows:
  throughput  64 streams as fast as the server goes: token events/s per second of wall time and of
              the server's own processor time (it is one thread: "on one core"), and how fair it is:
              the slowest stream's rate over the median's.
  latency     2,000 events/s over 64 streams: from the moment the engine has the token to the moment
              its bytes are written to the socket, and to the moment the client has read them;
              and how late a process wakes that does nothing else (stalls.py), meanwhile.
Prints one JSON object. Both processes share this machine, and the reader costs about as much as
the server; a machine with one free core shows half.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from benchmarks.stalls import Stalls

ROOT = Path(__file__).parents[1]
STREAMS = 64
LATENCY_RATE = 2000  # events a second, all streams together
STAMP = b'"t":"'


class Reader(asyncio.Protocol):
    """One raw HTTP connection; counts token events and looks at the clock for each read."""

    def __init__(self, request: bytes, stamped: bool) -> None:
        self._request = request
        self._stamped = stamped
        self.events = 0
        self.first = 0.0
        self.last = 0.0
        self.lags: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        found = data.count(b'"type":"token"')
        if found:
            self.first = self.first or now
            self.last = now
            self.events += found
        if self._stamped:
            data = self._rest + data
            *parts, tail = data.split(STAMP)
            for part in parts[1:] + ([tail] if b'"' in tail else []):
                stamp = part.partition(b'"')[0]
                if stamp.startswith(b"@"):
                    self.lags.append(now - float(stamp[1:]))
            self._rest = b"" if b'"' in tail else STAMP + tail
        if b"[DONE]" in data[-64:] and self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def streams(port: int, tokens: int, stamped: bool) -> list[Reader]:
    """Run all streams to their end."""
    loop = asyncio.get_running_loop()
    body = json.dumps({"prompt": "x", "max_tokens": tokens}).encode()
    readers = []
    urls = [await create(port, body) for _ in range(STREAMS)]
    for url in urls:
        head = f"GET {url} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        _, reader = await loop.create_connection(
            lambda head=head: Reader(head, stamped), "127.0.0.1", port
        )
        readers.append(reader)
    await asyncio.gather(*(r.done for r in readers))
    return readers


async def create(port: int, body: bytes) -> str:
    """Create a job; its stream's path."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    url: str = json.loads(answer.partition(b"\r\n\r\n")[2])["sse_url"]
    return url


def cpu_s(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class ServerWorker:
    """A worker process with the fake engine, and what it prints: a JSON value a line."""

    def __init__(self, process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        self.process, self._complaints = process, complaints

    def line(self) -> Any:
        """The next line. Raises SystemExit with the worker's own words where it printed none."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if said.endswith(b"\n"):
            return json.loads(said)
        self._complaints.seek(0)
        last = self._complaints.read().decode().strip().splitlines()[-1:]
        status = self.process.wait()
        raise SystemExit(
            f"benchmarks.server_worker ended with status {status}, {len(said)} bytes into a line: "
            f"{''.join(last) or 'no reason given'}"
        )


@contextmanager
def worker(mode: dict[str, Any]) -> Iterator[tuple[ServerWorker, int]]:
    """A worker with the fake engine and its port; ended and its pipe closed afterwards."""
    command = [sys.executable, "-m", "benchmarks.server_worker", json.dumps(mode)]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, cwd=ROOT) as process,
    ):
        try:
            started = ServerWorker(process, complaints)
            yield started, int(started.line()["port"])
        finally:
            process.terminate()


def throughput(tokens: int) -> dict[str, float]:
    """One run at full speed."""
    with worker({"wait_s": 1.5, "tokens": tokens}) as (started, port):
        asyncio.run(warm(port))
        before = cpu_s(started.process.pid)
        readers = asyncio.run(streams(port, tokens, stamped=False))
        spent = cpu_s(started.process.pid) - before
    events = sum(r.events for r in readers)
    wall = max(r.last for r in readers) - min(r.first for r in readers)
    rates = sorted(r.events / (r.last - min(s.first for s in readers)) for r in readers)
    return {
        "events": events,
        "events_per_s": round(events / wall),
        "events_per_cpu_s": round(events / spent),
        "slowest_over_median": round(rates[0] / statistics.median(rates), 3),
    }


def latency(seconds: float) -> dict[str, float]:
    """One run at `LATENCY_RATE`."""
    tokens = int(LATENCY_RATE / STREAMS * seconds)
    mode = {"wait_s": 1.0, "tokens": tokens, "rate": LATENCY_RATE / STREAMS}
    with worker(mode) as (started, port):
        asyncio.run(warm(port))
        with Stalls() as stalls:
            readers = asyncio.run(streams(port, tokens, stamped=True))
        asyncio.run(warm(port))
        started.process.terminate()
        written = sorted(started.line())
    lags = sorted(lag for r in readers for lag in r.lags)
    wall = max(r.last for r in readers) - min(r.first for r in readers)

    def ms(values: list[float], share: float) -> float:
        return round(values[int(share * (len(values) - 1))] * 1e3, 3)

    return {
        "events_per_s": round(sum(r.events for r in readers) / wall),
        "to_socket_p50_ms": ms(written, 0.5),
        "to_socket_p99_ms": ms(written, 0.99),
        "to_client_p50_ms": ms(lags, 0.5),
        "to_client_p99_ms": ms(lags, 0.99),
        "machine_late_p99_ms": stalls.p99_ms,
    }


async def warm(port: int) -> None:
    """Wait until the worker is ready."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        if b" 200 " in answer[:16]:
            return
        await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2000, help="tokens of each stream")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the latency run")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    result = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "throughput": [throughput(args.tokens) for _ in range(args.repeats)],
        "latency": [latency(args.seconds) for _ in range(args.repeats)],
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
