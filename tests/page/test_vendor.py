"""The page's foreign files are those that `versions.json` names, and they are small."""

from __future__ import annotations

import re

from tests.page.vendor import VENDOR, VERSIONS, described, sha256

PAGE = VENDOR.parent
MOST = 400_000  # bytes of all foreign files
LOADED = 250_000  # bytes that every visitor loads: our own files and the markdown library


def test_every_foreign_file_has_its_hash_and_no_other_is_there() -> None:
    rows = {
        row["to"]: row["sha256"] for package in described()["packages"] for row in package["files"]
    }
    there = {
        str(p.relative_to(VENDOR)): sha256(p.read_bytes()) for p in VENDOR.rglob("*") if p.is_file()
    }
    del there[VERSIONS.name]
    assert there == rows


def test_every_package_says_its_version_and_its_licence() -> None:
    for package in described()["packages"]:
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])
        assert package["licence"] in ("MIT", "BSD-3-Clause")
        licences = [row["to"] for row in package["files"] if row["to"].endswith(".LICENSE")]
        assert len(licences) == 1
        assert (
            "ermission" in (VENDOR / licences[0]).read_text()
            or "Redistribution" in (VENDOR / licences[0]).read_text()
        )


def test_the_page_is_small() -> None:
    assert sum(p.stat().st_size for p in VENDOR.rglob("*") if p.is_file()) <= MOST
    own = sum(p.stat().st_size for p in PAGE.iterdir() if p.is_file())
    assert own + (VENDOR / "marked.js").stat().st_size <= LOADED


def test_our_own_files_have_one_idea_each_and_name_no_other_site() -> None:
    for file in PAGE.glob("*.*"):
        text = file.read_text()
        assert text.count("\n") <= 300, file.name
        if file.suffix == ".js":
            assert text.startswith(("/** ", "/**\n")), file.name
        assert re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", text) == [], file.name
    html = (PAGE / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*src)|\son\w+=|style=", html) == []
