"""Tokenizing a long text in a thread leaves the interpreter to the other threads."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.tokenizer.load import load_tokenizer
from tests import tiny

TEXT = "one two STOP three; " * 20_000


def test_others_run_while_a_long_text_is_tokenized(tmp_path: Path) -> None:
    tiny.write_safetensors(tmp_path)
    tokenizer = load_tokenizer(open_checkpoint(str(tmp_path)))
    found: list[list[int]] = []
    worker = threading.Thread(target=lambda: found.append(tokenizer.encode(TEXT)))
    worker.start()
    turns = 0
    while worker.is_alive():
        time.sleep(0)
        turns += 1
    assert turns > 50  # one or two, where the library holds the interpreter's lock
    assert tokenizer.decode(found[0], skip_special=True) == TEXT
