"""The engine's process that is started before anybody knows what for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rbee_worker.process import child
from tests.patience import LIMIT_S
from tests.process.held import wait_for_state
from tests.process.test_process import alive

ROOT = Path(__file__).parents[2]
NOTING = """
import os
from rbee_worker.process import child
spawn = child.spawn
def noted(*args):
    made = spawn(*args)
    with open(os.environ["RBEE_TEST_NOTED"], "a") as file:
        file.write(f"{made.process.pid}\\n")
    return made
child.spawn = noted
from rbee_worker.cli.main import main
main()
"""  # the command; it notes which engine it has started, as it may be gone before anybody looks
PROGRAM = [sys.executable, "-c", NOTING]


@pytest.fixture(autouse=True)
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which `PROGRAM` notes its engine."""
    file = tmp_path / "noted"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RBEE_TEST_NOTED", str(file))
    return file


def children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def others() -> set[int]:
    """Processes that tests share and that live as long as all tests: a browser, a server."""
    return set(children(os.getpid()))


def wait_for_engine(noted: Path) -> int:
    """The process of the engine that `PROGRAM` has started."""
    deadline = time.monotonic() + LIMIT_S
    while not (noted.exists() and (told := noted.read_text()).endswith("\n")):
        assert time.monotonic() < deadline, "no engine was started"
        time.sleep(0.001)
    return int(told)


def test_an_engine_that_nobody_claims_is_ended() -> None:
    before = others()
    with child.early(True):
        (pid,) = others() - before
    assert not alive(pid)


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
        assert other.process.wait(LIMIT_S) != 0
        other.end()
        assert len(others() - before) == 1


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.4])
def test_ctrl_c_during_the_start_leaves_no_process(
    delay_s: float, tmp_path: Path, noted: Path
) -> None:
    running = subprocess.Popen(
        [*PROGRAM, "generate", "--model", str(tmp_path / "nowhere.gguf"), "hello"],
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    engine = wait_for_engine(noted)
    time.sleep(delay_s)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    out, err = running.communicate(timeout=LIMIT_S)
    assert running.returncode in (130, 3)  # 3: it had found by then that there is no such model
    assert "Traceback" not in err
    assert not out
    wait_for_state(engine, ("Z",))


def test_a_killed_command_leaves_no_process(noted: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "generate", "--model", "x", "-"],
        cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as running:  # fmt: skip
        engine = wait_for_engine(noted)
        running.kill()
    wait_for_state(engine, ("Z",))


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["generate", "--no-such-option"], 2, "no-such-option"),
        (["generate", "--model", "./no-such-model", "x"], 3, "no-such-model"),
        (["generate", "--model", "x", "--system", "s", "x"], 2, "--chat"),
    ],
)
def test_a_command_that_comes_to_nothing_says_one_line(
    words: list[str], code: int, says: str, noted: Path
) -> None:
    running = subprocess.Popen(
        [*PROGRAM, *words], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    out, err = running.communicate(timeout=LIMIT_S)
    assert not out
    (line,) = err.splitlines()
    assert says in line
    assert "Fix:" in line
    assert running.returncode == code
    assert not alive(wait_for_engine(noted))


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
