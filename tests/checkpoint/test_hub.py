"""Models from the hub: huggingface_hub itself against a server on this machine."""

import hashlib
import json
import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, constants

from rbee_worker.checkpoint.refs import list_models, pull, resolve
from rbee_worker.errors import BadReference, ModelError

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b'{"model": {}}',
    "tokenizer.model": b"spm",
    "model-00001-of-00002.safetensors": b"1" * 70_000,
    "model-00002-of-00002.safetensors": b"2" * 50_000,
    "model.safetensors.index.json": b"{}",
    "consolidated.safetensors": b"3" * 90_000,
    "pytorch_model.bin": b"pickle",
    "original/params.json": b"{}",
    "README.md": b"read",
    "quant/m-Q4_0.gguf": b"GGUF" * 10_000,
}


class Hub(ThreadingHTTPServer):
    """Serves one repository as the hub does, and remembers what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"o/model": dict(FILES)}
        self.revisions = {"main": "a" * 40, "v2": "b" * 40}
        self.status = 200
        self.asked: list[str] = []
        self.got: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.status != 200:
            code = {401: "RepoNotFound", 403: "GatedRepo"}.get(self.server.status, "")
            self.reply(self.server.status, b"{}", X_Error_Code=code)
            return
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/models/"):
            self.info(path.removeprefix("api/models/"))
        elif "/resolve/" in path:
            self.file(*path.split("/", 4))
        else:
            self.reply(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def info(self, path: str) -> None:
        repo, _, revision = path.partition("/revision/")
        files = self.server.files.get(repo)
        if files is None:
            self.reply(404, b"{}", X_Error_Code="RepoNotFound")
            return
        sha = self.server.revisions.get(revision or "main")
        if sha is None:
            self.reply(404, b"{}", X_Error_Code="RevisionNotFound")
            return
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        body = {"id": repo, "modelId": repo, "sha": sha, "siblings": siblings}
        self.reply(200, json.dumps(body).encode(), Content_Type="application/json")

    def file(self, owner: str, name: str, _: str, sha: str, file: str) -> None:
        data = self.server.files[f"{owner}/{name}"].get(file)
        if data is None:
            self.reply(404, X_Error_Code="EntryNotFound")
            return
        if self.command == "GET":
            self.server.got.append(file)
        tag = f'"{hashlib.sha1(data).hexdigest()}"'
        self.reply(200, data, ETag=tag, X_Repo_Commit=sha, Accept_Ranges="bytes")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    close_session()
    server.shutdown()
    thread.join()
    server.server_close()


WANTED = {name for name in FILES if name[:5] in ("confi", "token", "model")}


def test_a_model_without_its_pickles(hub, tmp_path):
    said: list[tuple[str, int, int]] = []
    path = pull("hf:o/model", lambda *r: said.append(r), cache_dir=str(tmp_path))
    assert {file.name for file in path.iterdir()} == WANTED
    for name in WANTED:
        assert (path / name).read_bytes() == FILES[name]
    assert {*hub.got} == WANTED
    total = sum(len(FILES[name]) for name in WANTED)
    assert said[0] == ("fetching hf:o/model", 0, total)
    assert said[-1] == ("fetching hf:o/model", total, total)
    assert [done for _, done, _ in said] == sorted(done for _, done, _ in said)


def test_what_is_there_needs_no_network(hub, tmp_path):
    path = resolve("hf:o/model", cache_dir=str(tmp_path))
    hub.status = 500
    hub.asked.clear()
    assert resolve("hf:o/model", cache_dir=str(tmp_path)) == path
    assert hub.asked == []
    (model,) = list_models(str(tmp_path))
    assert (model.ref, model.path) == ("hf:o/model", path)
    assert model.nbytes == sum(len(FILES[name]) for name in WANTED)


def test_pull_asks_what_is_newest(hub, tmp_path):
    old = resolve("hf:o/model", cache_dir=str(tmp_path))
    hub.files["o/model"]["config.json"] = b'{"model_type": "mistral"}'
    hub.revisions["main"] = "c" * 40
    assert resolve("hf:o/model", cache_dir=str(tmp_path)) == old
    new = pull("hf:o/model", cache_dir=str(tmp_path))
    assert new.name == "c" * 40
    assert (new / "config.json").read_bytes() == b'{"model_type": "mistral"}'
    assert resolve("hf:o/model", cache_dir=str(tmp_path)) == new
    assert sorted(hub.got) == sorted([*WANTED, "config.json"])  # the rest was there


def test_a_revision(hub, tmp_path):
    path = resolve("hf:o/model@v2", cache_dir=str(tmp_path))
    assert path.name == "b" * 40
    assert [model.ref for model in list_models(str(tmp_path))] == ["hf:o/model@v2"]


def test_one_file(hub, tmp_path):
    path = resolve("hf:o/model:quant/m-Q4_0.gguf", cache_dir=str(tmp_path))
    assert path.read_bytes() == FILES["quant/m-Q4_0.gguf"]
    assert hub.got == ["quant/m-Q4_0.gguf"]
    (model,) = list_models(str(tmp_path))
    assert resolve(model.ref, cache_dir=str(tmp_path)) == path
    assert model.nbytes == len(FILES["quant/m-Q4_0.gguf"])


def test_an_interrupted_download_does_not_count(hub, tmp_path):
    del hub.files["o/model"]["tokenizer.model"]

    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve("hf:o/model", cache_dir=str(tmp_path), progress=stop)
    assert list_models(str(tmp_path)) == []
    assert resolve("hf:o/model", cache_dir=str(tmp_path)).is_dir()


@pytest.mark.parametrize(
    ("ref", "files", "says"),
    [
        ("hf:o/absent", None, "no such repository"),
        ("hf:o/model@v9", None, "no such revision"),
        ("hf:o/model:x.gguf", None, r"no such GGUF file \(it has: quant/m-Q4_0\.gguf\)"),
        ("hf:o/model:pytorch_model.bin", None, "no such GGUF file"),
        ("hf:o/model", ["config.json", "a.gguf"], r"name a file: hf:o/model:a\.gguf"),
        ("hf:o/model", ["config.json", "pytorch_model.bin"], "no safetensors weights"),
    ],
)
def test_what_is_not_there(hub, tmp_path, ref, files, says):
    if files:
        hub.files["o/model"] = dict.fromkeys(files, b"x")
    with pytest.raises(BadReference, match=says) as caught:
        resolve(ref, cache_dir=str(tmp_path))
    assert caught.value.exit_code == 3
    assert hub.got == []


@pytest.mark.parametrize(
    ("status", "says"), [(401, "no such repository"), (403, "granted by its owner"), (400, "hub")]
)
def test_what_the_hub_refuses(hub, tmp_path, status, says):
    hub.status = status
    with pytest.raises(BadReference, match=says) as caught:
        resolve("hf:o/model", cache_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_offline(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadReference, match="cannot be reached") as caught:
        resolve("hf:o/model", cache_dir=str(tmp_path))
    assert "\n" not in str(caught.value)
    assert "go online" in str(caught.value.fix)
    assert hub.asked == []


def test_room_is_checked_first(hub, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 0))
    with pytest.raises(ModelError, match="hf:o/model needs"):
        resolve("hf:o/model", cache_dir=str(tmp_path))
    assert hub.got == []
