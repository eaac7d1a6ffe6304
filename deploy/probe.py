"""Whether the worker of this container serves: `python probe.py`. Exit code 0 if it does.

It reads the worker's own environment: RBEE_HOST, RBEE_PORT, RBEE_TLS_CERT, RBEE_LOCAL_MODE and
RBEE_API_TOKEN. Where only a file has tokens it knows none, and asks whether the worker is alive;
otherwise it asks whether the worker is ready.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping

TIMEOUT_S = 2.0
EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}
PORT = "8080"


def question(environ: Mapping[str, str]) -> urllib.request.Request:
    """What to ask the worker that has this environment."""
    token = environ.get("RBEE_API_TOKEN", "")
    local = environ.get("RBEE_LOCAL_MODE", "").lower() in ("1", "true", "yes", "on")
    host = "127.0.0.1" if local else environ.get("RBEE_HOST", "")
    host = EVERYWHERE.get(host, f"[{host}]" if ":" in host else host)
    scheme = "https" if environ.get("RBEE_TLS_CERT") else "http"
    path = "/v1/ready" if token or local else "/health"
    url = f"{scheme}://{host}:{environ.get('RBEE_PORT') or PORT}{path}"
    return urllib.request.Request(
        url, headers={"Authorization": f"Bearer {token}"} if token else {}
    )


def main() -> int:
    """Ask; one line on stderr where the answer is no."""
    unchecked = ssl.create_default_context()  # it talks to itself: the name is another one
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unchecked)
    )
    try:
        direct.open(question(os.environ), timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        sys.stderr.write(f"{error.code} {error.read(300).decode(errors='replace')}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
