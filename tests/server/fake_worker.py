"""A worker process with the fake engine: `python -m tests.server.fake_worker SETTINGS FAKE`, both
JSON objects; a "hold" is the path of a file, "signals" are numbers that the process is sent as soon
as its address can be read. The rest of the process is the real one: socket, address line, signals,
exit code."""

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
from tests.server.fake_engine import Fake, HoldFile, starter

ERRORS = {
    "unsupported": UnsupportedModel("rwkv7 is not supported.", fix="serve a llama."),
    "device": DeviceLost("the GPU fell off the bus."),
}


def main() -> None:
    settings = Settings(**json.loads(sys.argv[1]))
    options = json.loads(sys.argv[2])
    if "load_error" in options:
        options["load_error"] = ERRORS[options["load_error"]]
    if "hold" in options:
        options["hold"] = HoldFile(options["hold"])
    signals = options.pop("signals", ())

    def listening(_: str) -> None:
        for number in signals:
            os.kill(os.getpid(), number)

    log.setup(settings.log_level, settings.log_format)
    with one_line(False):
        tokens = read_tokens(settings, os.environ)
        sys.exit(serve(settings, tokens, starter(Fake(**options)), listening=listening))


if __name__ == "__main__":
    main()
