"""How long this machine lets a process wait that has nothing to do but wake up.

`Stalls` runs a process that sleeps a millisecond at a time and notes how late it wakes. What the
machine takes from everybody (a busy host, a limit on processor time) shows there, measured while
something else is measured; wall times of single events mean little without it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType
from typing import Self

CODE = """
import json, select, sys, time
late = []
while not select.select([sys.stdin], [], [], 0)[0]:
    due = time.monotonic() + 0.001
    time.sleep(0.001)
    late.append(time.monotonic() - due)
late.sort()
print(json.dumps(late[int(0.99 * (len(late) - 1))] * 1e3 if late else 0.0))
"""


class Stalls:
    """`with Stalls() as stalls: ...`; afterwards `p99_ms`, how late it woke."""

    p99_ms = 0.0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        told, _ = self._process.communicate(b"\n")
        if kind is None:
            self.p99_ms = round(float(json.loads(told)), 3)
