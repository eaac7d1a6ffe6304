"""Who may ask: every route, known or not, with and without the token; and local mode's checks."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.server import tokens
from rbee_worker.server.page_files import page_routes
from rbee_worker.server.routes import OPERATIONS
from tests.server.served import TOKEN, Served

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
UNKNOWN = (
    "/nothing",
    "/v1",
    "/v1/jobs/",
    "/x//health",
    "/health/",
    "/HEALTH",
    "/page/../info",
    "/.env",
)
PUBLIC = {"/health", "/v1/health"} | {route.path for route in page_routes()}
PATHS = sorted({op.path.replace("{job_id}", "x").replace("{model:path}", "x") for op in OPERATIONS})


@pytest.fixture(scope="module")
def local() -> Iterator[Served]:
    with Served(token="") as server:
        yield server


@pytest.mark.parametrize("path", [*PATHS, *UNKNOWN, *sorted(PUBLIC - {*PATHS})])
def test_nothing_but_public_reads_answers_without_the_token(served: Served, path: str) -> None:
    for method in METHODS:
        for headers in ({}, {"Authorization": "Bearer wrong-wrong-wrong"}):
            response = served.http.request(
                method, path, headers={"Authorization": "", **headers}, json={}
            )
            if method == "BREW":
                assert response.status_code == 400  # no HTTP method at all
                continue
            if path in PUBLIC and method in ("GET", "HEAD"):
                assert response.status_code == 200, (method, path)
                continue
            assert response.status_code == 401, (method, path)
            assert response.headers["www-authenticate"] == "Bearer"
            if method != "HEAD":
                assert "This worker needs its token." in response.text  # in any API's form


@pytest.mark.parametrize(
    "value",
    [
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer  {TOKEN} {TOKEN}",
        "Bearer",
        "Bearer \xe9\xe9",
    ],
)
def test_only_the_exact_bearer_token_opens(served: Served, value: str) -> None:
    headers = {"Authorization": value.encode("latin-1")}
    assert served.http.get("/info", headers=headers).status_code == 401  # type: ignore[arg-type]


def test_the_token_opens(served: Served) -> None:
    assert served.http.get("/info").status_code == 200
    lower = {"Authorization": f"bearer {TOKEN}"}
    assert served.http.get("/info", headers=lower).status_code == 200
    assert served.http.get("/nothing").status_code == 404
    assert served.http.put("/info").status_code == 405


def test_comparison_takes_constant_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every check of a token goes through `hmac.compare_digest`."""
    seen: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        seen.append((a, b))
        return hmac.compare_digest(a, b)

    monkeypatch.setattr(tokens, "hmac", SimpleNamespace(compare_digest=compare))
    served.http.get("/info", headers={"Authorization": "Bearer x"})
    served.http.get("/info", headers={"Authorization": "Nonsense"})
    assert len(seen) == 2


def test_public_files_hold_no_data(served: Served) -> None:
    for path in PUBLIC - {*PATHS}:
        response = served.http.get(path, headers={"Authorization": ""})
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        for word in ("unsafe", "http:", "https:", "data:", "blob:", "*"):
            assert word not in policy, "nothing inline, nothing from elsewhere"
        known = {"Authorization": "", "If-None-Match": response.headers["etag"]}
        again = served.http.get(path, headers=known)
        assert (again.status_code, again.content) == (304, b"")
        assert "smollm2" not in response.text


@pytest.mark.parametrize(
    ("environ", "local_mode", "words"),
    [
        ({}, False, "needs a token"),
        ({"RBEE_API_TOKEN": "short"}, False, "at least 16"),
        ({"RBEE_API_TOKEN": "x" * 15 + "é"}, False, "printable ASCII"),
        ({"RBEE_API_TOKEN": "x" * 20}, True, "--local-mode"),
        ({"LLORCH_API_TOKEN": "x" * 20}, True, "--local-mode"),
    ],
)
def test_a_worker_refuses_to_start(environ: dict[str, str], local_mode: bool, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        tokens.read_tokens(Settings(local_mode=local_mode), environ)
    assert caught.value.exit_code == 2
    for value in environ.values():
        assert value not in str(caught.value)


def test_tokens_are_read_under_both_names() -> None:
    token = "y" * 16
    found = tokens.read_tokens(Settings(), {"RBEE_API_TOKEN": token}).find(token.encode())
    assert found is not None
    assert found.name == "default"
    found = tokens.read_tokens(Settings(), {"LLORCH_API_TOKEN": token}).find(token.encode())
    assert found is not None
    assert found.name == "default"
    assert tokens.read_tokens(Settings(local_mode=True), {}).anybody().name == "local"


@pytest.mark.parametrize("path", ["/health", "/info", "/", "/v1/models"])
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:{port}", 200),
        ("[::1]:{port}", 200),
        ("LOCALHOST:1", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("127.0.0.2", 403),
        ("", 403),
    ],
)
def test_local_mode_refuses_foreign_hosts(local: Served, path: str, host: str, status: int) -> None:
    headers = {"Host": host.format(port=local.settings.port)}
    assert local.http.get(path, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:{port}", 200),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://127.0.0.1:1", 403),
        ("", 403),
    ],
)
def test_local_mode_refuses_foreign_origins(local: Served, origin: str, status: int) -> None:
    headers = {"Origin": origin.format(port=local.settings.port)}
    assert local.http.get("/info", headers=headers).status_code == status


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_local_mode_refuses_bodies_that_are_not_json(local: Served, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    body = b'{"prompt":"x","max_tokens":1}'
    response = local.http.post("/v1/infer", content=body, headers=headers)
    assert response.status_code == 415
    chunks = local.http.post("/v1/infer", content=iter([body]), headers=headers)
    assert chunks.status_code == 415
    fine = {"Content-Type": "application/json; charset=utf-8"}
    assert local.http.post("/v1/infer", content=body, headers=fine).status_code == 200


def test_cors_is_off_by_default(served: Served) -> None:
    asked = {"Origin": "http://app.example", "Access-Control-Request-Method": "POST"}
    response = served.http.options("/v1/jobs", headers={**asked, "Authorization": ""})
    assert response.status_code == 401
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("token", [TOKEN, ""])
def test_cors_lets_named_origins_in(token: str) -> None:
    with Served(token=token, cors_origin="http://app.example, http://b.example") as server:
        asked = {
            "Origin": "http://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        preflight = server.http.options("/v1/jobs", headers={**asked, "Authorization": ""})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "http://app.example"
        real = server.http.get("/info", headers={"Origin": "http://b.example"})
        assert real.status_code == 200
        assert real.headers["access-control-allow-origin"] == "http://b.example"
        other = server.http.options("/v1/jobs", headers={**asked, "Origin": "http://c.example"})
        assert "access-control-allow-origin" not in other.headers
        assert other.status_code == 400
