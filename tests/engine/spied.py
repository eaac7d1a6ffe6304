"""The engine's process, which writes beside each message what torch is by then: see its test."""

import json
import os
import sys
from pathlib import Path

from rbee_worker.engine.messages import Output
from rbee_worker.loading import torch_import
from rbee_worker.process import main
from rbee_worker.process.port import Port


class Spied(Port):
    """Names which modules of torch are executed, and which of those that may be left out are."""

    def send(self, outputs: list[Output]) -> None:
        modules = {n: type(m).__name__ for n, m in list(sys.modules.items())}
        left_out = [n for n in torch_import.LATER if modules.get(n) == "_Empty"]
        report = {
            "torch": "torch" in modules,
            "left out": left_out,
            "executed": [n for n in torch_import.LATER if n in modules and n not in left_out],
            "of compilers": [n for n in modules if n.startswith("torch._dynamo")],
        }
        Path(os.environ["RBEE_TEST_REPORT"]).write_text(json.dumps(report))
        super().send(outputs)


if __name__ == "__main__":
    main.Port = Spied  # type: ignore[misc]
    main.main()
