"""The engine process: `python -m rbee_worker.process.main FD [FD]`, started by `EngineClient` only.

The descriptors are its end of the link and the memory for its weights.

Its loop takes commands, runs a step and sends the results; it sleeps while there is nothing to do.
It lives exactly as long as its client: when the socket closes it exits at once, in the middle of a
step if need be. SIGINT and SIGTERM are ignored: a terminal or an init system sends them to the
whole process group, and the client decides whether running answers are finished first.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rbee_worker.constraints.words import Words
from rbee_worker.engine.messages import (
    Cancel,
    Command,
    Configure,
    LoadAdapter,
    LoadFailed,
    Loading,
    Ready,
    Shutdown,
    Submit,
    UnloadAdapter,
)
from rbee_worker.errors import device_lost
from rbee_worker.extras import explained
from rbee_worker.heap import Sweep, settle
from rbee_worker.kept_memory import KeptMemory
from rbee_worker.observe import log
from rbee_worker.process.port import Port, PortClosed

if TYPE_CHECKING:
    from rbee_worker.config import Settings
    from rbee_worker.engine.engine import Engine
    from rbee_worker.model_info import ModelInfo

    Loader = Callable[[Settings, Callable[[Loading], None]], tuple[Engine, ModelInfo]]

_log = log.logger("engine")


def serve(port: Port, load: Loader, tidy: Callable[[], None] | None = None) -> None:
    """Load the model that the client names and run it until the client is gone or says stop.

    tidy: called after each step, when its output is sent.
    """
    try:
        engine = _load(port, load)
        if engine is not None:
            engine.tell = port.send
        while engine is not None:
            commands = port.receive(wait=engine.idle)
            with port.step():  # reading an adapter may take as long as any step
                goes_on = _obey(engine, commands)
                outputs = engine.step() if goes_on and not engine.idle else None
            if not goes_on:
                break
            if outputs is not None:
                port.send(outputs)
                if tidy is not None:
                    tidy()
    except PortClosed:
        _log.debug("the client is gone")


def _load(port: Port, load: Loader) -> Engine | None:
    commands = port.receive(wait=True)
    if not isinstance(commands[0], Configure):
        return None  # the client gave up before it named a model
    settings = commands[0].settings
    log.setup(settings.log_level, settings.log_format)
    try:
        engine, info = load(settings, lambda loading: port.send([loading]))
    except PortClosed:
        raise
    except Exception as error:
        known = explained(error) or device_lost(error)
        if known is not None:
            told = LoadFailed(
                code=known.code,
                message=str(known),
                exit_code=known.exit_code,
                of_draft=known.of_draft,
            )
            port.send([told])
            return None
        _log.exception("the model cannot be loaded")
        message = f"the model cannot be loaded: {type(error).__name__}: {error}"
        port.send([LoadFailed(code="MODEL_UNUSABLE", message=message, exit_code=3)])
        return None
    port.send([Ready(info=info)])
    with port.step():
        return engine if _obey(engine, commands[1:]) else None


def _obey(engine: Engine, commands: list[Command]) -> bool:
    """Pass commands to the engine. False: stop."""
    for command in commands:
        if isinstance(command, Submit):
            engine.submit(command)
        elif isinstance(command, Words):
            engine.learn(command)
        elif isinstance(command, Cancel):
            engine.cancel(command)
        elif isinstance(command, LoadAdapter):
            engine.load_adapter(command)
        elif isinstance(command, UnloadAdapter):
            engine.unload_adapter(command)
        elif isinstance(command, Shutdown):
            return False
    return True


def _loader(kept: KeptMemory | None) -> Loader:
    """The function that loads an engine; imported now, while the client finds the model.

    If a package is missing, or memory for it, the returned function raises the error, when the
    client listens.
    """
    try:
        from rbee_worker.loading.load import load_engine
        from rbee_worker.ops.backends import preload

        preload()
        return partial(load_engine, memory=kept)
    except (ImportError, OSError, MemoryError) as error:
        missing = error

        def failing(
            settings: Settings, report: Callable[[Loading], None]
        ) -> tuple[Engine, ModelInfo]:
            raise missing

        return failing


def main() -> None:
    """Entry point of the child process."""
    # The objects made by imports and loading are permanent; collecting garbage among them would
    # take a tenth of the time of both.
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked by process/child.py
    # No code here multiplies with numpy, whose threads would spin from its import on.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # torch reads these when the backend that computes with it imports it. Threads that spin while
    # they wait make every operation 10 times slower as soon as another program needs a core, and
    # finding plug-ins for other devices reads every package's metadata.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    settle(computes=True)
    link, *kept = map(int, sys.argv[1:])
    port = Port(socket.socket(fileno=link), on_close=lambda: os._exit(0))
    load_engine = _loader(KeptMemory(kept[0]) if kept else None)

    def load(settings: Settings, report: Callable[[Loading], None]) -> tuple[Engine, ModelInfo]:
        loaded = load_engine(settings, report)
        gc.freeze()
        gc.enable()
        return loaded

    serve(port, load, Sweep())
    sys.stderr.flush()
    os._exit(0)  # skip the interpreter's shutdown: threads of numeric libraries may still run


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        known = explained(error)
        if known is None:
            raise
        sys.stderr.write(f"{known.line}\n")  # the client tells it as the last line
        sys.stderr.flush()
        os._exit(known.exit_code)
