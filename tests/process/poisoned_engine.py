"""An engine process that dies, as from a fault in a kernel, in every step that computes a request
whose prompt has the token `POISON`; with RBEE_TEST_DECODING set, only where such a step computes
one token; with RBEE_TEST_ALWAYS set, in every step. With RBEE_TEST_HANGING set it does not die, but
the step never ends, and the file that it names gets the process's id."""

from __future__ import annotations

import os
import signal
import time

from rbee_worker.engine.runner import Launched, Runner
from rbee_worker.engine.scheduler import Plan
from rbee_worker.process.main import main

POISON = 4  # "%" in the alphabet of tests/engine/tiny.py

_launch = Runner.launch


def _dying(runner: Runner, plan: Plan) -> Launched:
    most = 1 if os.environ.get("RBEE_TEST_DECODING") else 1 << 30
    poisoned = any(
        POISON in chunk.seq.submit.prompt_ids and chunk.count <= most for chunk in plan.chunks
    )
    if poisoned or os.environ.get("RBEE_TEST_ALWAYS"):
        if hanging := os.environ.get("RBEE_TEST_HANGING"):
            with open(hanging, "a", encoding="utf-8") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(3600)
        os.kill(os.getpid(), signal.SIGSEGV)
    return _launch(runner, plan)


if __name__ == "__main__":
    Runner.launch = _dying  # type: ignore[assignment, method-assign]
    main()
