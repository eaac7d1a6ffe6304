"""Two workers on one GPU, and a worker whose engine loses it: [shares] [again] [gone].

shares: two engines at once, each with 40 % of the memory. again: the engine's process reads beyond
its memory while it answers, so that nothing in it can use the GPU any more; another engine must
continue all answers. gone: the same, and the next engine finds no GPU: exit code 4 is expected.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

SHAPE, STREAMS, PROMPT, TOKENS = "llama-1b", 8, 128, 800
# Run at the start of each process of the worker; only its engines are touched.
FAULT = """
import os, sys, threading, time
marks = os.environ.get("FAULT_MARKS", "")
if marks and "rbee_worker.process.main" in sys.orig_argv:
    first = not any(name.startswith("engine") for name in os.listdir(marks))
    open(os.path.join(marks, f"engine-{os.getpid()}"), "w").close()
    if not first and os.environ["FAULT_KIND"] == "gone":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if first:
        def fault():
            while not os.path.exists(os.path.join(marks, "now")):
                time.sleep(0.02)
            import torch
            x = torch.zeros(4, device="cuda")
            x[torch.tensor([1 << 20], device="cuda")].sum()
        threading.Thread(target=fault, daemon=True).start()
"""


def say(text: str) -> None:
    """A line of output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def shares() -> None:
    """Two engines at once; the memory that all processes have together."""
    command = [sys.executable, "-m", "benchmarks.gpu", SHAPE, "--rows", "decode 8"]
    command += ["--repeats", "2", "--set", "gpu_memory=40", "kv_tokens=0"]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    most, used = 0, [0]
    while any(one.poll() is None for one in both):
        asked = [
            "nvidia-smi",
            "--query-gpu=memory.used,memory.total",
            "--format=csv,noheader,nounits",
        ]
        told = subprocess.run(asked, capture_output=True, text=True).stdout
        used = [int(part) for part in told.split(",") if part.strip()]
        most = max([most, *used[:1]])
        time.sleep(0.3)
    for one in both:
        assert one.stdout is not None
        say(f"exit code {one.returncode}: " + one.stdout.read().strip().replace("\n", " | ")[-900:])
    say(f"most memory in use: {most} of {used[-1] if used else 0} MiB")


async def ask(port: int, number: int) -> tuple[int, str]:
    """One streamed request: how many events came, and how it ended."""
    ids = [(7919 * number + 31 * i) % 30000 for i in range(PROMPT)]
    body: dict[str, Any] = {
        "model": f"random:bf16:{SHAPE}", "prompt": ids, "max_tokens": TOKENS, "temperature": 0,
        "stream": True, "ignore_eos": True,
    }  # fmt: skip
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + data)
    events, last = 0, ""
    try:
        while line := await reader.readline():
            if line.startswith(b"HTTP/1.1") and b" 200 " not in line:
                return 0, f"refused: {line!r} {await reader.read()!r}"[:400]
            if line.startswith(b"data: "):
                events += line.startswith(b"data: {")
                last = line.decode().strip()[-160:]
    except ConnectionError as error:
        last = repr(error)
    writer.close()
    return events, last


async def disturbed(port: int, marks: Path) -> None:
    """Streams during which the fault happens."""
    from benchmarks.gpu_http import until_ready

    await until_ready("127.0.0.1", port)
    await asyncio.gather(*(ask(port, n) for n in range(STREAMS)))  # captures graphs
    began = time.perf_counter()
    tasks = [asyncio.create_task(ask(port, n)) for n in range(STREAMS)]
    await asyncio.sleep(0.2)
    (marks / "now").touch()
    found = await asyncio.gather(*tasks)
    say(f"after {time.perf_counter() - began:.1f} s: events {[n for n, _ in found]}")
    say(f"  last of one: {found[0][1]}")


def lost(kind: str) -> None:
    """A worker whose engine loses the GPU."""
    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder, "marks")
        marks.mkdir()
        Path(folder, "sitecustomize.py").write_text(FAULT)
        path = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
        more = {"PYTHONPATH": path, "FAULT_MARKS": str(marks), "FAULT_KIND": kind}
        command = [sys.executable, "-m", "benchmarks.gpu_http", SHAPE, "--serve"]
        log = Path(folder, "log")
        with log.open("w") as errors:
            worker = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True,
                env={**os.environ, **more},
            )  # fmt: skip
            assert worker.stdout is not None
            port = json.loads(worker.stdout.readline())["port"]
            try:
                asyncio.run(asyncio.wait_for(disturbed(port, marks), 90))
            except Exception as error:
                say(f"  {type(error).__name__}: {error}"[:300])
            try:
                code: int | None = worker.wait(5)
            except subprocess.TimeoutExpired:
                code = None
                worker.terminate()
                worker.wait(30)
        engines = len([p for p in marks.iterdir() if p.name.startswith("engine")])
        say(f"{kind}: {engines} engines, exit code {'none, it ran on' if code is None else code}")
        for line in log.read_text().splitlines()[-6:]:
            say(f"  log: {line[:400]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["shares", "again", "gone"])
    for what in parser.parse_args().what:
        if what == "shares":
            shares()
        else:
            lost(what)


if __name__ == "__main__":
    main()
