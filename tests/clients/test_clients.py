"""Every cell of docs/clients.md: the programs are run, and do what the page says.

`make test-long` installs the clients; RBEE_TEST_CLIENTS names the folder with their environment
(`venv`) and their node_modules.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.table import (
    CLIENTS,
    FEATURES,
    NONE,
    PAGE,
    Client,
    Installed,
    Missing,
    cells,
    run,
    workers,
)

FOLDER = Path(os.environ.get("RBEE_TEST_CLIENTS", ".venv-clients"))
INSTALLED = Installed(str(FOLDER / "venv/bin/python"), FOLDER)


def written() -> dict[tuple[str, str], list[str]]:
    """The page's rows: (client without its version, API) -> cells."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        columns = [c.strip() for c in line.strip("|").split("|")]
        if len(columns) == 2 + len(FEATURES) and columns[0] not in ("client", "---"):
            rows[re.sub(r" [\d.]+$", "", columns[0]), columns[1]] = columns[2:]
    return rows


def test_the_page_has_every_client_and_nothing_fails() -> None:
    rows = written()
    assert list(rows) == [(client.name, client.api) for client in CLIENTS]
    assert {cell for row in rows.values() for cell in row} <= {"works", "refused", NONE}


def test_every_client_has_a_program_and_every_program_a_client() -> None:
    programs = {p.name for p in (Path(__file__).parent / "programs").iterdir() if p.is_file()}
    assert programs - {"harness.py", "harness.mjs"} == {client.program for client in CLIENTS}


@pytest.fixture(scope="module")
def servers() -> Iterator[Any]:
    with workers() as found:
        yield found


@pytest.mark.long
@pytest.mark.parametrize("client", CLIENTS, ids=lambda c: c.program)
def test_a_client_does_what_the_page_says(client: Client, servers: Any) -> None:
    try:
        found = run(client, INSTALLED, servers)
    except Missing as reason:
        pytest.skip(str(reason))
    assert cells(found) == written()[client.name, client.api], found
