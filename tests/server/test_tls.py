"""TLS: what the worker shows, a new certificate while it runs, and files that cannot be used.

The certificates in tests/data/tls are for localhost and 127.0.0.1, valid from 2000 to 2126. The
keys of "one" and "two" are of elliptic curves, that of "rsa" is of RSA.
"""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.server import reloading
from rbee_worker.server.tls import certificate
from tests.server.fake_engine import Fake
from tests.server.reading import DONE, events
from tests.server.served import Served, wait_for
from tests.server.spawned import Spawned

DATA = Path(__file__).parents[1] / "data" / "tls"


def pair(name: str, to: Path) -> dict[str, str]:
    """Settings with copies of a certificate and its key."""
    for end in ("crt", "key"):
        shutil.copy(DATA / f"{name}.{end}", to / f"worker.{end}")
    return {"tls_cert": str(to / "worker.crt"), "tls_key": str(to / "worker.key")}


def client(url: str, name: str, token: str = "") -> httpx.Client:
    context = ssl.create_default_context(cafile=DATA / f"{name}.crt")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=url.replace("http:", "https:"), verify=context, headers=headers)


def shown(port: int) -> bytes:
    """The certificate that a new connection sees."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as tls:
        found = tls.getpeercert(binary_form=True)
        assert found is not None
        return found


def der(name: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert((DATA / f"{name}.crt").read_text())


def test_jobs_and_streams_over_tls(tmp_path: Path) -> None:
    served = Served(Fake(token_s=0.001), **pair("one", tmp_path)).start()
    try:
        with client(served.url, "one", served.token) as http:
            wait_for(lambda: http.get("/v1/ready").status_code == 200)
            job = http.post("/v1/jobs", json={"prompt": "a bee", "max_tokens": 30}).json()
            found = events(http.get(job["sse_url"]).text)
            assert found[-1] == DONE
            assert found[-2]["tokens_out"] == 30
            body = {"prompt": "x" * 60_000}
            assert http.post("/tokenize", json={"text": body["prompt"]}).json()["count"] == 60_000
        with client(served.url, "two") as http, pytest.raises(httpx.ConnectError):
            http.get("/health")
        with httpx.Client(base_url=served.url) as plain, pytest.raises(httpx.TransportError):
            plain.get("/health")
    finally:
        served.__exit__()


def test_a_connection_that_is_kept_for_later_does_not_delay_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbee_worker.server.run.LAST_STREAMS_S", 1e6)
    monkeypatch.setattr("rbee_worker.server.connection.GOODBYE_S", 0.01)
    served = Served(**pair("one", tmp_path)).start()
    with client(served.url, "one") as http:
        assert http.get("/health").status_code == 200
        served.stop()
        assert served.join() == 0
    served.__exit__()


@pytest.mark.parametrize(("version", "taken"), [("TLSv1_1", False), ("TLSv1_2", True)])
def test_old_versions_are_refused(tmp_path: Path, version: str, taken: bool) -> None:
    given = certificate(Settings(**pair("one", tmp_path)))
    assert given is not None
    assert (given.context.minimum_version <= ssl.TLSVersion[version]) == taken


def test_a_new_certificate_is_shown_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "EVERY_S", 0.02)
    served = Served(**pair("one", tmp_path)).start()
    try:
        port = served.settings.port
        with client(served.url, "one") as before:
            assert before.get("/health").status_code == 200
            assert shown(port) == der("one")
            shutil.copy(DATA / "two.crt", tmp_path / "worker.crt")  # without its key: not used
            wait_for(lambda: (tmp_path / "worker.crt").read_bytes() != b"")
            assert shown(port) == der("one")
            shutil.copy(DATA / "two.key", tmp_path / "worker.key")
            wait_for(lambda: shown(port) == der("two"))
            assert before.get("/health").status_code == 200  # its connection goes on
    finally:
        served.__exit__()


def greeted(context: ssl.SSLContext, newest: ssl.TLSVersion, name: str | None) -> bytes:
    """The certificate that a client sees which is made with `context`. name: of the server, if the
    client names one."""
    mine = ssl.create_default_context()
    mine.check_hostname, mine.verify_mode, mine.maximum_version = False, ssl.CERT_NONE, newest
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = mine.wrap_bio(back, there, server_hostname=name)
    answering = context.wrap_bio(there, back, server_side=True)
    for end in (asking, answering) * 3:
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    found = asking.getpeercert(binary_form=True)
    assert found is not None
    return found


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["localhost", None])
def test_a_new_certificate_may_have_a_key_of_another_kind(
    tmp_path: Path, newest: ssl.TLSVersion, name: str | None
) -> None:
    """OpenSSL keeps one certificate for each kind, and would show the one that has expired."""
    given = certificate(Settings(**pair("one", tmp_path)))
    assert given is not None
    for now in ("one", "rsa", "two", "rsa", "one"):
        pair(now, tmp_path)
        given.reload()
        assert greeted(given.context, newest, name) == der(now), now
    shutil.copy(DATA / "rsa.key", tmp_path / "worker.key")
    with pytest.raises(UsageError, match="the key is not that of the certificate"):
        given.reload()
    assert greeted(given.context, newest, name) == der("one")


def test_a_hangup_reads_it_again_and_the_address_is_https(tmp_path: Path) -> None:
    settings = pair("one", tmp_path)
    with Spawned.fake(settings) as worker:
        assert worker.line["url"] == f"https://127.0.0.1:{worker.line['port']}"
        for end in ("crt", "key"):
            shutil.copy(DATA / f"two.{end}", tmp_path / f"worker.{end}")
        worker.signal(signal.SIGHUP)
        wait_for(lambda: shown(worker.line["port"]) == der("two"))
        worker.signal()
        assert worker.wait() == 0


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("one.crt", "", "--tls-cert is given without --tls-key"),
        ("", "one.key", "--tls-key is given without --tls-cert"),
        ("one.crt", "two.key", "the key is not that of the certificate"),
        ("one.crt", "rsa.key", "the key is not that of the certificate"),
        ("rsa.crt", "one.key", "the key is not that of the certificate"),
        ("one.key", "one.key", "they cannot be read"),
        ("one.crt", "locked.key", "without a passphrase"),
        ("none.crt", "one.key", "No such file"),
    ],
)
def test_files_that_cannot_be_used_are_refused(cert: str, key: str, words: str) -> None:
    settings = Settings(
        tls_cert=str(DATA / cert) if cert else "", tls_key=str(DATA / key) if key else ""
    )
    with pytest.raises(UsageError, match=words) as caught:
        certificate(settings)
    assert "\n" not in caught.value.line
