"""Stands in for `llama-server` in llama.cpp's own server tests: its options become those of
`rbee-worker serve`, around a tiny model.

What the worker has no option for ends the shim with a line that says so. The port opens once the
model is loaded, because llama.cpp's tests take an answer from /health for that; connections are
handed through unchanged.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

MODELS = "RBEE_TEST_SHIM_MODELS"  # variable: a folder with the models that stand in, by name
TREE = "RBEE_TEST_SHIM_TREE"  # variable: the checkout whose worker is run
WORKERS = "workers"  # the folder of notes on workers that run
MARK = "shim: not offered: "
DAEMON = "from rbee_worker.cli.main import daemon; daemon()"
# names that the tests call the model by, which llama.cpp's server does not read
NAMES = (
    *("davinci-002", "gpt-3.5-turbo-instruct", "gpt-3.5-turbo", "gpt-4.1", "test"),
    *("text-embedding-3-small", "codellama70b"),
)
VALUES = {  # option -> the worker's
    "--temp": "--temperature",
    "--seed": "--seed",
    "--n-predict": "--max-tokens",
    "--threads": "--threads",
    "--cors-origins": "--cors-origin",
    "--reasoning": "--thinking",
}
# option -> whether a value follows; they change how fast llama.cpp is, or what a worker always has
QUIET = {
    "--offline": False,
    "--model-url": True,
    "--hf-repo": True,
    "--hf-file": True,
    "--batch-size": True,
    "--ubatch-size": True,
    "--n-gpu-layers": True,
    "--cont-batching": False,
    "--metrics": False,
    "--slots": False,
    "--no-slots": False,
    "--jinja": False,
    "--no-jinja": False,
    "--kv-unified": False,
    "--swa-full": False,
    "-fa": True,
    "-ctk": True,
    "-ctv": True,
    "--cache-ram": True,
    "--no-cache-idle-slots": False,
    "--no-ui": False,
    "--verbose": False,
    "--model": True,
    "--pooling": True,
    "--embedding": False,
    "--reranking": False,
    "--reasoning-format": True,
}


class Asked:
    """What the options ask for."""

    def __init__(self, args: list[str]) -> None:
        self.given: dict[str, str] = {}
        rest = list(args)
        while rest:
            name = rest.pop(0)
            known = name in VALUES or name in ("--host", "--port", "--api-key", "--alias")
            known = known or name in ("--ctx-size", "--parallel", "--chat-template-file")
            if not known and name not in QUIET:
                sys.exit(f"{MARK}{name}")
            self.given[name] = rest.pop(0) if known or QUIET[name] else ""

    def model(self) -> Path:
        """The folder of the model that stands in for the one that is asked for."""
        folder = Path(os.environ[MODELS])
        repository = self.given.get("--hf-repo", "") + self.given.get("--hf-file", "")
        if "gemma3" in repository:
            return folder / "see"
        if "--reranking" in self.given or "rerank" in repository:
            return folder / "rerank"
        if "--embedding" in self.given:
            return folder / "embed"
        template = self.given.get("--chat-template-file")
        chosen = folder / ("infill" if "infill" in repository else "chat")
        return with_template(chosen, Path(template)) if template else chosen

    def options(self) -> list[str]:
        """The worker's options."""
        if self.given.get("--reasoning-format") == "none":
            sys.exit(f"{MARK}--reasoning-format none")
        slots = int(self.given.get("--parallel", "1"))
        found = ["--port", "0", "--model-ref", str(self.model()), "--max-seqs", str(slots)]
        encodes = "--embedding" in self.given or "--reranking" in self.given  # in its own context
        if "--ctx-size" in self.given and not encodes:
            found += ["--ctx", str(int(self.given["--ctx-size"]) // slots)]
        names = [n for n in self.given.get("--alias", "").split(",") if n]
        found += ["--served-model-name", ",".join(dict.fromkeys([*names, *NAMES]))]
        template = self.given.get("--chat-template-file")
        if "--jinja" in self.given and not template and not encodes:
            found += ["--tool-format", "prompt"]  # llama.cpp describes tools in a form of its own
        for name, own in VALUES.items():
            if self.given.get(name, "-1") != "-1":
                found += [own, self.given[name]]
        if "--api-key" not in self.given:
            found.append("--local-mode")
        return found


def with_template(model: Path, template: Path) -> Path:
    """A copy of a model with another chat template."""
    copy = model.parent / f"{model.name}-{template.stem}"
    if not copy.exists():
        part = copy.with_name(f"{copy.name}.{os.getpid()}")
        part.mkdir()
        for file in model.iterdir():
            (part / file.name).write_bytes(file.read_bytes())
        config = json.loads((part / "tokenizer_config.json").read_text())
        config["chat_template"] = template.read_text()
        (part / "tokenizer_config.json").write_text(json.dumps(config))
        part.rename(copy)
    return copy


def known_options(tree: str) -> str:
    """The help of `serve` in this checkout: an older one has fewer options."""
    kept = Path(os.environ[MODELS]) / "help"
    if not kept.exists():
        env = {**os.environ, "PYTHONPATH": tree}
        command = [sys.executable, "-c", DAEMON, "--help"]
        told = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
        kept.write_text(told)
    return kept.read_text()


def worker(asked: Asked) -> int:
    """The port of a worker with these options, its model loaded. One is started if none runs: it
    goes on for the tests that follow, until whoever runs them ends it."""
    tree = os.environ[TREE]
    options, known, kept = asked.options(), known_options(tree), list[str]()
    while options:
        name = options.pop(0)
        value = [options.pop(0)] if options and not options[0].startswith("--") else []
        kept += [name, *value] if name in known else []
    key = asked.given.get("--api-key", "")
    digest = hashlib.sha256(json.dumps([kept, key]).encode()).hexdigest()[:16]
    note = Path(os.environ[MODELS]) / WORKERS / f"{digest}.json"
    if note.exists():
        port: int = json.loads(note.read_text())["port"]
        return port
    env = {**os.environ, "PYTHONPATH": tree, "OMP_NUM_THREADS": "1"}
    env.pop("RBEE_API_TOKEN", None)
    if key:
        env["RBEE_API_TOKEN"] = key
    command = [sys.executable, "-c", DAEMON, *kept, "--host", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env, start_new_session=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    if not first:
        sys.exit(f"{MARK}{' '.join(kept)}")
    port = json.loads(first)["port"]
    wait_ready(process, port, key)
    note.parent.mkdir(exist_ok=True)
    note.write_text(json.dumps({"port": port, "pid": process.pid}))
    return port


def wait_ready(process: subprocess.Popen[bytes], port: int, key: str) -> None:
    """Until the model is loaded."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/ready")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    while process.poll() is None:
        try:
            urllib.request.urlopen(request).close()
            return
        except urllib.error.HTTPError:
            time.sleep(0.05)
    sys.exit("shim: the worker has ended")


async def relay(asked: Asked, port: int) -> None:
    """Hand connections through until the process is told to end."""

    async def pour(source: asyncio.StreamReader, into: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                into.write(data)
                await into.drain()
        except OSError:
            pass
        finally:
            into.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own_reader, own_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pour(reader, own_writer), pour(own_reader, writer))

    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    hosts = asked.given.get("--host", "127.0.0.1").split(",")
    await asyncio.start_server(connected, hosts, int(asked.given["--port"]))
    await told.wait()


def main() -> None:
    """Serve until SIGTERM."""
    asked = Asked(sys.argv[1:])
    asyncio.run(relay(asked, worker(asked)))


if __name__ == "__main__":
    main()
