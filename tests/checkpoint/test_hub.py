"""Models from the hub: huggingface_hub itself against a server on this machine."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, constants, hf_hub_download, scan_cache_dir
from huggingface_hub.errors import EntryNotFoundError

from rbee_worker.checkpoint import hf_cache, lacking, tokenizer_files
from rbee_worker.checkpoint import hub as hub_module
from rbee_worker.checkpoint.cache import SPARE_BYTES
from rbee_worker.checkpoint.refs import list_models, parse, pull, resolve
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
        commit = self.server.revisions.get(sha, sha)
        if data is None:
            self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        if self.command == "GET":
            self.server.got.append(file)
        tag = f'"{hashlib.sha1(data).hexdigest()}"'
        self.reply(200, data, ETag=tag, X_Repo_Commit=commit, Accept_Ranges="bytes")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
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


def test_every_file_that_text_is_read_from_is_fetched(hub, tmp_path):
    """Whatever holds the vocabulary (T5's is spiece.model), and how vectors are made; the model's
    folder is none of those in it, though one of them is the first."""
    more = (*tokenizer_files.READ, "modules.json", "1_Pooling/config.json", "processor_config.json")
    more += ("2_Dense/config.json", "2_Dense/model.safetensors")
    hub.files["o/model"] |= dict.fromkeys(more, b"{}")
    path = pull("hf:o/model", cache_dir=str(tmp_path))
    assert [name for name in more if not (path / name).is_file()] == []


def test_weights_of_a_step_are_no_model(hub, tmp_path):
    hub.files["o/model"] = {"config.json": b"{}", "2_Dense/model.safetensors": b"{}"}
    with pytest.raises(BadReference, match="has no safetensors weights"):
        pull("hf:o/model", cache_dir=str(tmp_path))


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
    ("status", "says"),
    [(401, "no such repository"), (403, "its owner must grant access"), (400, "hub")],
)
def test_what_the_hub_refuses(hub, tmp_path, status, says):
    hub.status = status
    with pytest.raises(BadReference, match=says) as caught:
        resolve("hf:o/model", cache_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_offline(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadReference, match="HF_HUB_OFFLINE is set") as caught:
        resolve("hf:o/model", cache_dir=str(tmp_path))
    assert "\n" not in str(caught.value)
    assert "go online" in str(caught.value.fix)
    assert hub.asked == []


def theirs(hub: Hub, home: Path, *names: str, repo: str = "o/model") -> Path:
    """What another program has fetched with huggingface_hub into its own cache."""
    store = home / "hub"
    paths = [Path(hf_hub_download(repo, name, cache_dir=store)) for name in names]
    hub.asked.clear()
    hub.got.clear()
    return paths[0].parent


@pytest.fixture
def whole(hub: Hub) -> Hub:
    """The repository with an index that names its shards."""
    names = {f"t{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    index = json.dumps({"weight_map": names}).encode()
    hub.files["o/model"]["model.safetensors.index.json"] = index
    return hub


def test_what_others_have_fetched_is_not_fetched_again(whole, tmp_path):
    there = theirs(whole, tmp_path / "hf-home", *WANTED)
    assert resolve("hf:o/model", cache_dir=str(tmp_path / "ours")) == there
    assert resolve("hf:o/model") == there
    assert resolve(f"hf:o/model@{there.name}") == there
    assert resolve("hf:o/model:quant/m-Q4_0.gguf").name == "m-Q4_0.gguf"
    assert whole.got == ["quant/m-Q4_0.gguf"]
    assert ("hf:o/model", there) in [(m.ref, m.path) for m in list_models()]


def test_what_is_fetched_goes_where_others_look(whole, tmp_path):
    path = resolve("hf:o/model")
    assert path.is_relative_to(tmp_path / "hf-home" / "hub" / "models--o--model" / "snapshots")
    assert scan_cache_dir(tmp_path / "hf-home" / "hub").repos
    whole.status = 500
    assert (
        Path(
            hf_hub_download(
                "o/model",
                "config.json",
                local_files_only=True,
                cache_dir=tmp_path / "hf-home" / "hub",
            )
        )
        == path / "config.json"
    )


@pytest.mark.parametrize(
    "missing",
    [
        "config.json",
        "tokenizer.json",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ],
)
def test_a_part_of_a_model_is_none(whole, tmp_path, missing):
    held = WANTED - {missing} - ({"tokenizer.model"} if missing == "tokenizer.json" else set())
    theirs(whole, tmp_path / "hf-home", *held)
    path = resolve("hf:o/model")
    assert {file.name for file in path.iterdir()} == WANTED
    assert missing in whole.got


def test_offline_what_is_there_is_enough_also_to_pull(whole, tmp_path, monkeypatch):
    there = theirs(whole, tmp_path / "hf-home", *WANTED)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pull("hf:o/model") == there
    assert whole.asked == []


def test_a_folder_of_the_cache_is_the_model(whole, tmp_path):
    there = theirs(whole, tmp_path / "hf-home", *WANTED)
    folder = there.parent.parent
    assert folder.name == "models--o--model"
    assert resolve(str(folder)) == there
    (folder / "refs" / "main").unlink()
    assert resolve(str(folder)) == there
    (folder / "snapshots" / ("d" * 40)).mkdir()
    with pytest.raises(BadReference) as caught:
        resolve(str(folder))
    assert "no branch says which snapshot" in caught.value.message


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HF_HOME": "/a/hf"},
        {"HF_HOME": "~/hf"},
        {"HF_HUB_CACHE": "/c"},
        {"HF_HUB_CACHE": "/c", "HF_HOME": "/a"},
        {"HUGGINGFACE_HUB_CACHE": "/d"},
        {"XDG_CACHE_HOME": "/x"},
    ],
    ids=str,
)
def test_the_cache_is_where_huggingface_hub_has_it(environ, tmp_path, monkeypatch):
    names = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environ, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert str(hf_cache.cache_root()) == said.stdout.strip()


ALIKE = ["hf:o/m:a.gguf", "hf:o/m@a.gguf", "hf:o/m--a.gguf", "hf:o--m/a.gguf"]


def test_two_references_never_share_a_receipt(tmp_path):
    models = [parse(ref) for ref in ALIKE]
    assert len({hub_module._old_receipt(m, tmp_path) for m in models}) < len(models)
    assert len({hub_module._receipt(m, tmp_path) for m in models}) == len(models)
    (tmp_path / "x" / "1_Pooling").mkdir(parents=True)
    (tmp_path / "x" / "model.safetensors").touch()
    for model in models:
        file = hub_module._old_receipt(model, tmp_path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"ref": ALIKE[0], "path": str(tmp_path / "x")}))
    found = [hub_module.local(m, tmp_path, tmp_path / "store") for m in models]
    assert found == [tmp_path / "x", None, None, None]
    step = {"ref": ALIKE[0], "path": str(tmp_path / "x" / "1_Pooling")}  # as it was once written
    hub_module._receipt(models[0], tmp_path).write_text(json.dumps(step))
    assert hub_module.local(models[0], tmp_path, tmp_path / "store") == tmp_path / "x"


def test_room_is_checked_first(hub, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 0))
    with pytest.raises(ModelError, match="hf:o/model needs"):
        resolve("hf:o/model", cache_dir=str(tmp_path))
    assert hub.got == []


def test_a_full_disk_takes_what_is_lacking_or_leaves_the_copy(vectors, tmp_path, monkeypatch):
    """What is there already needs no room, and a copy in doubt is used as it is offline."""
    path = theirs(vectors, tmp_path / "hf-home", *FETCHED)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, SPARE_BYTES - 1))
    assert resolve("hf:o/model") == path
    assert lacking.in_doubt(path)
    room = SPARE_BYTES + sum(map(len, vectors.files["o/model"].values())) - 900  # its weights
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, room))
    assert resolve("hf:o/model") == path
    assert not lacking.in_doubt(path)


VECTORS = {
    **{name: FILES[name] for name in ("tokenizer.json", "README.md")},
    "config.json": b'{"model_type": "bert", "architectures": ["BertModel"]}',
    "model.safetensors": b"4" * 900,
}
STEP = "1_Pooling/config.json"
MODULES = b'[{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"}]'
SAID = {"modules.json": MODULES, STEP: b'{"pooling_mode": "cls"}'}
FETCHED = ("config.json", "tokenizer.json", "model.safetensors")


@pytest.fixture
def vectors(hub: Hub) -> Hub:
    """A repository of a model for vectors."""
    hub.files["o/model"] = {**VECTORS, **SAID}
    return hub


@pytest.mark.parametrize("there", [FETCHED, (*FETCHED, "modules.json")])
def test_what_says_how_vectors_are_made_is_fetched_later(vectors, tmp_path, there):
    """Other programs leave it out; once it is there, nothing is asked any more."""
    path = theirs(vectors, tmp_path / "hf-home", *there)
    assert resolve("hf:o/model") == path
    assert {*vectors.got} == {*SAID} - {*there}
    vectors.asked.clear()
    assert resolve("hf:o/model") == path
    assert vectors.asked == []
    assert not lacking.in_doubt(path)


def test_an_old_record_of_a_download_without_it(vectors, tmp_path):
    path = resolve("hf:o/model")
    (path / STEP).unlink()
    vectors.got.clear()
    assert resolve("hf:o/model") == path
    assert (path / STEP).is_file()


@pytest.mark.parametrize("how", ["told", "unreachable"])
def test_a_copy_in_doubt_is_used_offline(vectors, tmp_path, monkeypatch, how):
    """With a note; but not where its own list shows that something is lacking."""
    path = theirs(vectors, tmp_path / "hf-home", *FETCHED)
    if how == "told":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    vectors.status = 500
    assert resolve("hf:o/model") == path
    assert lacking.in_doubt(path)
    (path / "modules.json").write_bytes(MODULES)
    with pytest.raises(BadReference, match=f"lacks {STEP}, and cannot be completed: ") as caught:
        resolve("hf:o/model")
    assert "\n" not in str(caught.value)
    assert "go online" in str(caught.value.fix)


def test_a_model_without_modules(vectors, tmp_path):
    """The hub's listing shows it, or that another program has asked in vain."""
    for name in SAID:
        del vectors.files["o/model"][name]
    path = theirs(vectors, tmp_path / "hf-home", *FETCHED)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("o/model", "modules.json", cache_dir=tmp_path / "hf-home" / "hub")
    vectors.asked.clear()
    assert resolve("hf:o/model") == path
    assert vectors.asked == []
    note = path.parent.parent / ".no_exist" / path.name / "modules.json"
    note.unlink()
    assert resolve("hf:o/model") == path
    assert vectors.asked != []
    assert note.is_file()
    assert scan_cache_dir(tmp_path / "hf-home" / "hub").warnings == []


@pytest.mark.parametrize(
    ("kind", "names", "doubted"),
    [
        ("BertForMaskedLM", ["x"], True),
        ("GPT2LMHeadModel", ["x"], False),
        ("BertForSequenceClassification", ["x"], True),
        ("Qwen3ForCausalLM", ["model.embed_tokens.weight"], False),
        ("Qwen3ForCausalLM", ["embed_tokens.weight"], True),
    ],
)
def test_which_models_may_lack_it(tmp_path, kind, names, doubted):
    folder = tmp_path / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [kind]}))
    header = json.dumps({name: {} for name in names}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert lacking.in_doubt(folder) == doubted
    assert lacking.in_doubt(tmp_path) is False
