"""A worker process with the fake engine: `python -m tests.server.fake_worker SETTINGS FAKE`, both
JSON objects. The rest of the process is the real one: socket, address line, signals, exit code."""

from __future__ import annotations

import json
import os
import sys

from rbee_worker.cli.failure import one_line
from rbee_worker.config import Settings
from rbee_worker.errors import DeviceLost, UnsupportedModel
from rbee_worker.observe import log
from rbee_worker.server.run import serve
from rbee_worker.server.tokens import read_tokens
from tests.server.fake_engine import Fake, starter

ERRORS = {
    "unsupported": UnsupportedModel("rwkv7 is not supported.", fix="serve a llama."),
    "device": DeviceLost("the GPU fell off the bus."),
}


def main() -> None:
    settings = Settings(**json.loads(sys.argv[1]))
    options = json.loads(sys.argv[2])
    if "load_error" in options:
        options["load_error"] = ERRORS[options["load_error"]]
    log.setup(settings.log_level, settings.log_format)
    with one_line(False):
        sys.exit(serve(settings, read_tokens(settings, os.environ), starter(Fake(**options))))


if __name__ == "__main__":
    main()
