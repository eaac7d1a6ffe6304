"""Pictures on the command line: files become parts, parts become files, and a bad file is one
line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbee_worker.cli.images import image_part, with_files, with_urls
from rbee_worker.errors import InvalidRequest, UsageError
from rbee_worker.pictures.files import picture_file
from tests.pictures.making import data_url, drawn, saved

FILE = saved(drawn(9, 6))
MOST = 1 << 16


def test_a_file_becomes_a_part_and_a_part_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(FILE)
    part = image_part(str(path), MOST)
    assert part == {"type": "image_url", "image_url": {"url": data_url(FILE)}}
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]},
    ]
    messages, (file,) = with_files(talk)
    assert file.data == FILE
    assert messages[1]["content"] == [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    assert with_urls(messages, [file]) == tuple(talk)


def test_a_file_that_is_none_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        picture_file(tmp_path / "absent.png", "images[0]", MOST)
    large = tmp_path / "large.png"
    large.write_bytes(FILE + bytes(MOST))
    with pytest.raises(UsageError, match="has more than 64 KiB"):
        picture_file(large, "images[0]", MOST)
    text = tmp_path / "a.txt"
    text.write_text("hello")
    with pytest.raises(InvalidRequest, match="is no picture that is known here"):
        image_part(str(text), MOST)
