"""What one client may cost: bodies, headers, silence, unread answers."""

from __future__ import annotations

import select
import socket
import time

import pytest

from tests.patience import LIMIT_S
from tests.server.fake_engine import Fake
from tests.server.served import TOKEN, Served, wait_for

HEAD = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"


def connect(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.settings.port), timeout=LIMIT_S)


def read_all(sock: socket.socket) -> bytes:
    parts = []
    try:
        while data := sock.recv(65536):
            parts.append(data)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize("path", ["/v1/infer", "/v1/jobs", "/v1/chat/completions", "/tokenize"])
def test_large_bodies_are_413_declared_or_not(path: str) -> None:
    with Served(max_body_kb=8) as served:
        big = b'{"prompt":"' + b"x" * 9000 + b'"}'
        assert served.http.post(path, content=big).status_code == 413
        assert served.http.post(path, content=iter([big[:5000], big[5000:]])).status_code == 413


def test_bodies_that_are_no_json_objects(served: Served) -> None:
    for body in (b"", b"{", b"[]", b"1", b'"x"', b"\xff", b"[" * 30_000, b'{"a":1}{"b":2}'):
        response = served.http.post("/v1/jobs", content=body)
        assert response.status_code == 400, body[:10]
        assert response.json()["error"]["code"] == "invalid_json"


def test_prompts_longer_than_the_limit_show_both_sizes() -> None:
    with Served(Fake(context=32)) as served:
        response = served.http.post("/v1/infer", json={"prompt": "x" * 513})
        assert response.status_code == 400
        assert "513" in response.text
        assert "512" in response.text
        response = served.http.post("/v1/infer", json={"prompt": "x" * 40})
        assert response.status_code == 400
        assert "40 tokens" in response.text
        assert "32 tokens" in response.text
        talk = [{"role": "user", "content": "x" * 300}] * 2
        response = served.http.post("/v1/infer", json={"messages": talk})
        assert "600" in response.text


def test_stop_strings_are_counted_and_measured(served: Served) -> None:
    for stop in (["x"] * 17, ["x" * 257], [""], 5):
        response = served.http.post("/v1/infer", json={"prompt": "x", "stop": stop})
        assert response.status_code == 400
        assert response.json()["errors"][0]["field"] == "stop"


def test_too_many_headers(served: Served) -> None:
    few = {f"X-{i}": "1" for i in range(40)}
    assert served.http.get("/health", headers=few).status_code == 200
    many = {f"X-{i}": "1" for i in range(80)}
    assert served.http.get("/health", headers=many).status_code == 431


def test_endless_headers_are_cut_before_any_route(served: Served) -> None:
    for line in (b"X-A: 1\r\n", b"X-A: " + b"y" * 60_000 + b"\r\n"):
        with connect(served) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\n")
            try:
                for _ in range(1000):
                    sock.sendall(line)
            except (BrokenPipeError, ConnectionResetError):
                pass
            assert read_all(sock)[:12] in (b"HTTP/1.1 400", b"")
    assert served.http.get("/health").status_code == 200


def test_silent_connections_are_closed() -> None:
    with Served(idle_timeout=1) as served:
        began = time.monotonic()
        starts = (
            b"",
            b"GET /health HTTP/1.1\r\nHost: lo",
            f"POST /v1/infer HTTP/1.1\r\n{HEAD}Content-Length: 100\r\n\r\n{{".encode(),
        )
        socks = [connect(served) for _ in starts]
        for sock, start in zip(socks, starts, strict=True):
            sock.sendall(start)
        for sock in socks:
            read_all(sock)
            sock.close()
        assert 0.9 < time.monotonic() - began < 15
        assert served.engine.held == 0


def test_a_slow_trickle_of_bytes_does_not_keep_a_connection() -> None:
    with Served(idle_timeout=1) as served, connect(served) as sock:
        began = time.monotonic()
        trickle = iter(b"GET /health HTTP/1.1\r\nX-Slow: " + b"z" * 1000)

        def cut() -> bool:
            try:
                sock.send(bytes([next(trickle)]))
            except (BrokenPipeError, ConnectionResetError):
                return True
            time.sleep(0.04)
            return False

        wait_for(cut)
        assert time.monotonic() - began < 20


def test_connections_beyond_the_limit_are_refused() -> None:
    with Served(max_connections=4) as served:
        served.http.close()
        socks = [connect(served) for _ in range(8)]
        wait_for(lambda: sum(map(closed, socks)) >= 4)
        answered = 0
        for sock in socks:
            try:
                sock.sendall(f"GET /health HTTP/1.1\r\n{HEAD}Connection: close\r\n\r\n".encode())
                answered += read_all(sock).startswith(b"HTTP/1.1 200")
            except (BrokenPipeError, ConnectionResetError):
                pass
            sock.close()
        assert 3 <= answered <= 4


def closed(sock: socket.socket) -> bool:
    """Whether the other side has closed it, or has said something."""
    return bool(select.select([sock], [], [], 0)[0])


def test_a_reader_that_stops_reading_slows_nobody_and_misses_nothing() -> None:
    """One client reads nothing while its job and another run; then it reads all of it."""
    with Served(Fake(token_s=0.0005, script=lambda request: [120] * 4000, context=8192)) as served:
        body = {"prompt": "x", "max_tokens": 4000, "logprobs": 20}
        slow = served.http.post("/v1/jobs", json=body).json()
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", served.settings.port))
            sock.settimeout(LIMIT_S)
            sock.sendall(
                f"GET {slow['sse_url']} HTTP/1.1\r\n{HEAD}Connection: close\r\n\r\n".encode()
            )
            fast = served.http.post("/v1/infer", json={"prompt": "y", "max_tokens": 1000}).json()
            assert fast["tokens_generated"] == 1000
            job = f"/v1/jobs/{slow['job_id']}"
            wait_for(lambda: served.http.get(job).json()["state"] == "done")
            assert largest_write_buffer(served) <= 512 * 1024
            raw = read_all(sock)
        whole = served.http.get(slow["sse_url"]).content
        assert len(whole) > 2_000_000
        assert unchunk(raw.partition(b"\r\n\r\n")[2]) == whole


def largest_write_buffer(served: Served) -> int:
    """Bytes that the server holds for the connection that holds most."""

    async def measure() -> int:
        connections = served.service.server.server_state.connections
        return max(c.transport.get_write_buffer_size() for c in connections)

    size: int = served.call(measure())
    return size


def unchunk(raw: bytes) -> bytes:
    """The body of a chunked answer."""
    parts = []
    while True:
        size, _, raw = raw.partition(b"\r\n")
        n = int(size, 16)
        if n == 0:
            return b"".join(parts)
        parts.append(raw[:n])
        raw = raw[n + 2 :]


def test_a_stalled_reader_is_dropped_and_an_openai_request_of_his_cancelled() -> None:
    fake = Fake(token_s=0.001, script=lambda request: [120] * 8000, context=16384)
    with Served(fake, stall_timeout=1) as served, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", served.settings.port))
        body = (  # large events, so that all buffers between the two are soon full
            b'{"messages":[{"role":"user","content":"x"}],"max_tokens":8000,"logprobs":true,'
            b'"top_logprobs":20,"stream":true}'
        )
        head = f"POST /v1/chat/completions HTTP/1.1\r\n{HEAD}Content-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        wait_for(lambda: served.engine.held == 1)
        wait_for(lambda: served.engine.held == 0)
        assert served.engine.submitted == 1
