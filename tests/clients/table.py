"""Other people's clients, run against the worker: a table of what works, in docs/clients.md.

    python -m tests.clients.table --python PYTHON --node FOLDER [--only NAME] [--write]

PYTHON is an interpreter that has the packages of `requirements.txt`, FOLDER one whose node_modules
has those of `package.json`. A client without its packages is left out, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import document
from tests.server.fake_engine import Fake
from tests.server.served import Served
from tests.server.talking import Talking
from tests.tokenizer.tool_templates import QWEN3

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/clients.md"
BLOCK = "clients"
FEATURES = ("chat", "stream", "structured", "tools", "embeddings", "errors")
NONE = "-"  # the client has no such feature
TIMEOUT_S = 240
MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>")


def _call(name: str, /, **arguments: object) -> str:
    told = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{told}\n</tool_call>"


ANSWERS = (  # by the number in the question; the programs' harness names them
    "It is sunny.",
    _call("get_weather", city="Köln"),
    "Köln is sunny.",
    '{"name": "bee", "size": 3}',
    _call("Thing", name="bee", size=3),
)


class Client(NamedTuple):
    """name: in the table; program: in `programs`; package: whose version is told."""

    name: str
    program: str
    package: str
    api: str

    @property
    def javascript(self) -> bool:
        return self.program.endswith(".mjs")


CLIENTS = (
    Client("openai (Python)", "openai_chat.py", "openai", "chat completions"),
    Client("openai (Python)", "openai_responses.py", "openai", "Responses"),
    Client("openai (JavaScript)", "openai_js.mjs", "openai", "chat completions, Responses"),
    Client("anthropic", "anthropic_messages.py", "anthropic", "Messages"),
    Client("ollama (Python)", "ollama_client.py", "ollama", "Ollama"),
    Client("ollama (JavaScript)", "ollama_js.mjs", "ollama", "Ollama"),
    Client("litellm", "litellm_client.py", "litellm", "chat completions"),
    Client(
        "langchain-openai", "langchain_openai_client.py", "langchain-openai", "chat completions"
    ),
    Client("instructor", "instructor_client.py", "instructor", "chat completions"),
    Client("pydantic-ai", "pydantic_ai_client.py", "pydantic-ai-slim", "chat completions"),
    Client("llm", "llm_client.py", "llm", "chat completions"),
    Client("outlines", "outlines_client.py", "outlines", "chat completions"),
    Client("Vercel AI SDK", "ai_sdk.mjs", "@ai-sdk/openai-compatible", "chat completions"),
    Client("Vercel AI SDK", "ai_sdk_openai.mjs", "@ai-sdk/openai", "Responses"),
)


class Missing(Exception):
    """A client cannot be run here; the text says why."""


class Installed(NamedTuple):
    """Where packages are: an interpreter, and a folder with node_modules."""

    python: str
    node: Path

    def version(self, client: Client) -> str:
        """Of a client's package. Raises Missing."""
        if client.javascript:
            if shutil.which("node") is None:
                raise Missing("there is no node")
            file = self.node / "node_modules" / client.package / "package.json"
            if not file.exists():
                raise Missing(f"{client.package} is not in {self.node}")
            version: str = json.loads(file.read_text())["version"]
            return version
        if shutil.which(self.python) is None:
            raise Missing(f"there is no interpreter {self.python}: make test-long installs it")
        code = f"import importlib.metadata as m; print(m.version({client.package!r}))"
        done = subprocess.run(
            [self.python, "-c", code], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Missing(f"{client.package} is not installed for {self.python}")
        return done.stdout.strip()

    def command(self, client: Client, work: Path) -> list[str]:
        """How the client's program is run. Node finds packages beside the program."""
        if not client.javascript:
            return [self.python, str(HERE / "programs" / client.program)]
        link = work / "node_modules"
        if not link.exists():
            link.symlink_to((self.node / "node_modules").resolve())
        for name in ("harness.mjs", client.program):
            shutil.copy(HERE / "programs" / name, work / name)
        return ["node", str(work / client.program)]


@contextmanager
def workers() -> Iterator[tuple[Served, Served]]:
    """A worker with scripted answers, and one for vectors, with the same token."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Talking(Path(folder), QWEN3, ANSWERS, tokens=MARKS, by_text=True) as talking,
        Served(Fake()) as vectors,
    ):
        yield talking, vectors


def run(client: Client, installed: Installed, servers: tuple[Served, Served]) -> dict[str, str]:
    """What became of each feature. Raises Missing."""
    installed.version(client)
    talking, vectors = servers
    with tempfile.TemporaryDirectory() as home:
        work = Path(home)
        env = {**os.environ, "HOME": home, "PYTHONDONTWRITEBYTECODE": "1"}
        env.pop("PYTHONPATH", None)
        command = [*installed.command(client, work), talking.url, talking.token, vectors.url]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=env,
            cwd=home,
            check=False,
        )
    if done.returncode or not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise RuntimeError(f"{client.program}: {last}")
    found: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return {feature: found.get(feature, NONE) for feature in FEATURES}


def cells(found: dict[str, str]) -> list[str]:
    """A row of the table."""
    return [found[feature].partition(":")[0] for feature in FEATURES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--node", type=Path, default=Path(".venv-clients"))
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    installed = Installed(asked.python, asked.node)
    rows = []
    with workers() as servers:
        for client in CLIENTS:
            if asked.only not in client.program:
                continue
            try:
                found = run(client, installed, servers)
            except Missing as error:
                sys.stderr.write(f"{client.name}: left out: {error}\n")
                continue
            told = [f"  {name}: {what}\n" for name, what in found.items() if ":" in what]
            sys.stderr.write(
                f"{client.name}, {client.api}: {' '.join(cells(found))}\n{''.join(told)}"
            )
            name = f"{client.name} {installed.version(client)}"
            rows.append([name, client.api, *cells(found)])
    if asked.write:
        head = ["client", "API", *FEATURES]
        document.write(BLOCK, document.table(head, rows), PAGE)


if __name__ == "__main__":
    main()
