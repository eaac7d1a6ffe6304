"""A step's profile: its arithmetic."""

import numpy as np

from benchmarks.cpu_profile import Row, rows, table
from rbee_worker.ops.cpu.runtime.matrix import Part
from rbee_worker.ops.cpu.runtime.recorder import Call
from rbee_worker.ops.cpu.shared.held import HELD


def test_a_kernel_has_its_share_of_the_step() -> None:
    weights = Part(HELD["q4_0"], np.zeros(300, np.uint8), 0, 16)
    product = Call("linear.q4_0", {}, barrier=True, product=weights)
    calls = [product, Call("norm.rms", {}, barrier=False), product]
    steps = [[0, 30, 40, 100], [200, 230, 240, 300], [300, 400, 410, 470]]  # one slow entry
    found = rows(calls, [np.array(step) for step in steps], micros=50.0)
    assert found == [
        Row("linear.q4_0", 2, 45.0, 0.9, 600),
        Row("norm.rms", 1, 5.0, 0.1, 0),
    ]
    head, first, second = table(found).splitlines()
    assert head.split() == ["kernel", "calls", "us", "share", "MB", "GB/s"]
    assert first.split() == ["linear.q4_0", "2", "45", "90.0%", "0.0", "0.0"]
    assert second.split() == ["norm.rms", "1", "5", "10.0%"]
