"""The engine's process that is started before anybody knows what for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rbee_worker.process import child

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "rbee_worker"]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def gone(pid: int) -> bool:
    """No such process, or one that only waits to be counted."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def others() -> set[int]:
    """Processes that tests share and that live as long as all tests: a browser, a server."""
    return set(children(os.getpid()))


def wait_for_child(running: "subprocess.Popen[str]") -> int:
    deadline = time.monotonic() + 30
    while not (found := children(running.pid)):
        assert time.monotonic() < deadline, "no engine was started"
        assert running.poll() is None
        time.sleep(0.001)
    return found[0]


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 15
    while not gone(pid):
        assert time.monotonic() < deadline, "the engine's process is left behind"
        time.sleep(0.01)


def test_an_engine_that_nobody_claims_is_ended() -> None:
    before = others()
    with child.early(True):
        (pid,) = others() - before
    assert gone(pid)


def test_the_first_to_ask_gets_the_early_one_and_the_next_a_new_one() -> None:
    before = others()
    with child.early(True):
        (pid,) = others() - before
        first, second = child.claim(), child.claim()
    assert first.process.pid == pid
    assert second.process.pid != pid
    for one in (first, second):
        assert one.process.poll() is None  # claimed: no longer ended by `early`
        one.end()


def test_nothing_is_started_that_is_not_wanted() -> None:
    before = others()
    with child.early(False):
        assert others() == before


def test_another_module_is_not_the_early_one(tmp_path: Path) -> None:
    before = others()
    with child.early(True):
        other = child.claim("rbee_worker.no_such_module")
        assert other.process.wait(30) != 0
        other.end()
        assert len(others() - before) == 1


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.4])
def test_ctrl_c_during_the_start_leaves_no_process(delay_s: float, tmp_path: Path) -> None:
    running = subprocess.Popen(
        [*PROGRAM, "generate", "--model", str(tmp_path / "nowhere.gguf"), "hello"],
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    engine = wait_for_child(running)
    time.sleep(delay_s)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    out, err = running.communicate(timeout=30)
    assert running.returncode in (130, 3)  # 3: it had found by then that there is no such model
    assert "Traceback" not in err
    assert not out
    wait_until_gone(engine)


def test_a_killed_command_leaves_no_process(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "generate", "--model", "x", "-"],
        cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as running:  # fmt: skip
        engine = wait_for_child(running)
        running.kill()
    wait_until_gone(engine)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["generate", "--no-such-option"], 2, "no-such-option"),
        (["generate", "--model", "./no-such-model", "x"], 3, "no-such-model"),
        (["generate", "--model", "x", "--system", "s", "x"], 2, "--chat"),
    ],
)
def test_a_command_that_comes_to_nothing_says_one_line(
    words: list[str], code: int, says: str
) -> None:
    running = subprocess.Popen(
        [*PROGRAM, *words], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    engine = wait_for_child(running)
    out, err = running.communicate(timeout=60)
    assert not out
    (line,) = err.splitlines()
    assert says in line
    assert "Fix:" in line
    assert running.returncode == code
    assert gone(engine)


@pytest.mark.parametrize(
    "words", [["--help"], ["generate", "--help"], ["models"], ["--version"], []]
)
def test_commands_without_an_engine_start_none(words: list[str]) -> None:
    code = (
        "import sys; from rbee_worker.process import child\n"
        "def spawn(*_): raise AssertionError('an engine was started')\n"
        "child.spawn = spawn\n"
        f"sys.argv = ['rbee-worker', *{words!r}]\n"
        "from rbee_worker.cli.main import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "an engine was started" not in done.stderr
    assert done.returncode in (0, 2)
