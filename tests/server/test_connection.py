"""HTTP byte by byte: every refusal has the one body, and a client may close its own side."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from rbee_worker.config import Settings
from rbee_worker.server.address import bind
from tests.server.fake_engine import Fake
from tests.server.reading import DONE, events
from tests.server.served import TOKEN, Served, wait_for
from tests.server.test_limits import connect, read_all, unchunk

AUTH = f"Authorization: Bearer {TOKEN}\r\n"
HEAD = f"Host: localhost\r\n{AUTH}"
GET = "GET /health HTTP/1.1\r\n"
CLOSE = "Connection: close\r\n"
BODY = '{"prompt":"a bee","max_tokens":7,"seed":1}'


def exchange(
    served: Served, text: str, close_own_side: bool = False
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of the last answer to `text`; interim answers are skipped."""
    with connect(served) as sock:
        sock.sendall(text.encode("latin-1"))
        if close_own_side:
            sock.shutdown(socket.SHUT_WR)
        raw = read_all(sock)
    while raw.startswith(b"HTTP/1.1 100"):
        raw = raw.partition(b"\r\n\r\n")[2]
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


def post(body: str, headers: str = "", path: str = "/v1/infer", version: str = "1.1") -> str:
    lines = f"POST {path} HTTP/{version}\r\n{HEAD}{CLOSE}Content-Type: application/json\r\n"
    return f"{lines}Content-Length: {len(body)}\r\n{headers}\r\n{body}"


def check_problem(body: bytes, code: str) -> dict[str, Any]:
    """`body` is the one error body, its line short and with a fix."""
    found = json.loads(body)
    assert found["error"].keys() >= {"message", "type", "code", "param"}
    assert found["error"]["code"] == code
    assert len(found["error"]["message"]) <= 300
    assert "Fix: " in found["error"]["message"]
    return found


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("NONSENSE\r\n\r\n", 400, "invalid_http"),
        ("BREW /health HTTP/1.1\r\nHost: x\r\n\r\n", 400, "invalid_http"),
        (f"{GET}Host: x\r\nContent-Length: x\r\n\r\n", 400, "invalid_http"),
        (f"{GET}Host: x\r\n" + "X-A: b\r\n" * 200 + "\r\n", 400, "too_many_headers"),
        (f"{GET}Host: x\r\nX-A: " + "b" * 40_000 + "\r\n\r\n", 400, "too_many_headers"),
        (f"{GET}{CLOSE}\r\n", 400, "no_host"),
        (f"GET http://evil.example/ HTTP/1.1\r\n{HEAD}\r\n", 400, "two_hosts"),
        (f"{GET}Host: a b\r\n{CLOSE}\r\n", 400, "bad_host"),
        (post(BODY, "Content-Encoding: gzip\r\n"), 415, "content_coding"),
        (post(BODY, "Transfer-Encoding: gzip, chunked\r\n"), 400, "invalid_http"),
        (f"{GET}{HEAD}{CLOSE}Transfer-Encoding: gzip, chunked\r\n\r\n", 415, "transfer_coding"),
    ],
)
def test_what_is_no_good_http_gets_the_one_error_body(
    served: Served, text: str, status: int, code: str
) -> None:
    found, headers, body = exchange(served, text)
    assert found == status
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    check_problem(body, code)
    assert served.http.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Host", "localhost"),
        ("Host", "evil.example"),
        ("Authorization", f"Bearer {TOKEN}"),
        ("Content-Type", "application/json"),
        ("Content-Type", "text/plain"),
        ("Origin", "http://a.example"),
        ("X-Correlation-ID", "b"),
        ("Content-Encoding", "identity"),
    ],
)
@pytest.mark.parametrize("token", [TOKEN, ""])
def test_a_header_that_is_read_is_given_once(
    served: Served, local: Served, name: str, value: str, token: str
) -> None:
    server = served if token else local
    twice = f"{name}: {value}\r\n" * (1 if name in ("Host", "Authorization", "Content-Type") else 2)
    text = post(BODY, twice if name != "X-Correlation-ID" else "X-Correlation-ID: a\r\n" * 2)
    if name == "Authorization" and not token:
        text = text.replace(AUTH, AUTH * 2, 1)
    status, _, body = exchange(server, text)
    assert status == 400
    assert check_problem(body, "repeated_header")["error"]["param"] == name.lower()


@pytest.fixture(scope="module")
def local() -> Iterator[Served]:
    with Served(token="") as server:
        yield server


def test_the_line_of_a_request_may_name_the_host_that_the_header_names(served: Served) -> None:
    text = "GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert exchange(served, text)[0] == 200


def test_connections_beyond_the_limit_are_told_so() -> None:
    with Served(max_connections=1) as served:
        served.http.get("/health")  # kept alive
        status, _, body = exchange(served, "")
        assert status == 503
        check_problem(body, "too_many_connections")


def test_a_request_that_comes_too_slowly_is_told_so() -> None:
    with Served(idle_timeout=1) as served:
        for text in ("GET /health HTTP/1.1\r\nHost: lo", post(BODY)[:-5]):
            status, _, body = exchange(served, text)
            assert status == 408
            check_problem(body, "request_too_slow")


# ---- half-closed


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_that_closes_its_own_side_gets_its_answer(served: Served, version: str) -> None:
    expected = served.http.post("/v1/infer", content=BODY).json()["text"]
    status, _, body = exchange(served, post(BODY, version=version), close_own_side=True)
    assert status == 200
    assert json.loads(body)["text"] == expected
    small = f"GET /health HTTP/{version}\r\n{HEAD}\r\n"
    assert exchange(served, small, close_own_side=True)[0] == 200


def test_it_gets_the_whole_of_a_stream_too() -> None:
    with Served(Fake(token_s=0.01)) as served:
        body = '{"prompt":"a bee","max_tokens":30,"stream":true}'
        request = post(body, path="/v1/completions")
        status, _, raw = exchange(served, request, close_own_side=True)
        assert status == 200
        text = unchunk(raw).decode()
        assert events(text)[-1] == DONE
        assert events(text)[-2]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_client_that_is_gone_is_told_from_one_that_waits(stream: str) -> None:
    """Nothing is written to it for as long as the first token takes."""
    with Served(Fake(delay_s=3600)) as served:
        with connect(served) as sock:
            body = f'{{"prompt":"x","stream":{stream}}}'
            sock.sendall(post(body, path="/v1/completions").encode())
            wait_for(lambda: bool(served.engines) and served.engine.held == 1)
            if stream == "true":
                sock.recv(1)
        wait_for(lambda: served.engine.held == 0)


# ---- error lines


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/%1b%5b31m%0a/nothing", None),
        ("GET", "/" + "nothing" * 900, None),
        ("PUT", "/info", None),
        ("GET", "/v1/jobs/" + "x" * 5000, None),
        ("GET", "/v1/models/%0d%0a", None),
        ("POST", "/v1/infer", {"prompt": "x", "\x1b[31m\n" * 40: 1, "temprature": 1}),
        ("POST", "/v1/infer", {"prompt": "x", **{f"odd\x00{i}" * 20: i for i in range(99)}}),
        ("POST", "/v1/infer", {"messages": [{"role": "user", "con\ntent" * 99: "x"}]}),
        ("POST", "/v1/completions", {"model": "\x1b" * 500, "prompt": "x"}),
        ("POST", "/tokenize", {"\x9b" * 400: 1}),
        ("POST", "/v1/embeddings", {"input": "x", "encoding_format": "\x1b" * 300}),
        ("POST", "/v1/jobs", {"operation": "\x1b[2J" * 300}),
    ],
)
def test_error_lines_are_short_and_say_what_to_do(
    served: Served, method: str, path: str, body: Any
) -> None:
    response = served.http.request(method, path, json=body)
    assert response.status_code >= 400
    found = check_problem(response.content, response.json()["error"]["code"])
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in found["error"]["message"])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_small_pieces_are_sent_at_once(host: str) -> None:
    """Else the body of every answer waits some 40 ms until the client confirms its headers."""

    async def accepted() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def met(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sock = writer.get_extra_info("socket")
            found.set_result(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = bind(Settings(host=host, port=0, local_mode=True))
        async with await asyncio.start_server(met, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            flag = await found
            writer.close()
        return flag

    assert asyncio.run(accepted())
