"""Which pairs count, and what is made of them; what the page of figures becomes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import document
from benchmarks.llamacpp_build import arguments, processor_flags
from benchmarks.side_by_side import Pair, alternate, kept, once, ratio


def pairs(*numbers: tuple[float, float]) -> list[Pair]:
    return [Pair({"row": ours}, {"row": peer}) for ours, peer in numbers]


def test_a_pair_whose_peer_fell_by_half_is_left_out() -> None:
    found = pairs((30, 10), (20, 10), (99, 4.9), (10, 5))
    assert [p.ours["row"] for p in kept(found, "row")] == [30, 20, 10]
    assert ratio(found, "row") == 2.0  # the median of 3, 2 and 2
    assert ratio(found, "other") is None
    assert ratio([Pair({"row": 1.0}, {})], "row") is None


def test_programs_run_in_turns_and_their_last_line_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def program(name: str) -> list[str]:
        code = f"open({str(log)!r}, 'a').write('{name}'); print('words'); print('{{\"row\": 2}}')"
        return [sys.executable, "-c", code]

    found = alternate(program("a"), program("b"), 2)
    assert log.read_text() == "abab"
    assert found == pairs((2, 2), (2, 2))
    assert alternate(program("a"), [], 1) == [Pair({"row": 2}, {})]


def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(SystemExit, match="no such file"):
        once([sys.executable, "-c", "raise SystemExit('no such file')"])


def test_a_block_of_the_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nbetween\n<!-- b -->\n<!-- /b -->\n")
    document.write("a", document.table(["x", "y"], [["1", "2"]]), page)
    document.write("a", ["new", "lines"], page)
    assert page.read_text() == (
        "before\n<!-- a -->\nnew\nlines\n<!-- /a -->\nbetween\n<!-- b -->\n<!-- /b -->\n"
    )
    with pytest.raises(SystemExit, match="<!-- c -->"):
        document.write("c", ["x"], page)


def test_a_table_is_markdown() -> None:
    assert document.table(["x", "y"], [["1", "2"]]) == ["| x | y |", "| --- | --- |", "| 1 | 2 |"]


@pytest.mark.parametrize("block", ["bench-cpu", "bench-memory", "bench-startup", "bench-families"])
def test_the_page_has_a_place_for_every_benchmark(block: str) -> None:
    text = document.PAGE.read_text()
    assert text.count(f"<!-- {block} -->") == text.count(f"<!-- /{block} -->") == 1


def test_the_processor_is_named(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Fast One\nflags\t\t: avx2 amx_tile\n")
    assert document.machine(cpuinfo).startswith("Fast One, ")
    assert processor_flags(cpuinfo) == {"avx2", "amx_tile"}
    assert processor_flags(tmp_path / "none") == frozenset()


def test_llama_cpp_is_compiled_with_all_but_amx() -> None:
    flags = frozenset(("avx", "avx2", "fma", "f16c", "avx512f", "avx512vl", "amx_tile", "amx_int8"))
    found = arguments("x86_64", flags)
    assert "-DGGML_NATIVE=OFF" in found
    assert "-DGGML_AVX2=ON" in found
    assert "-DGGML_AVX512=OFF" in found  # not all of its parts are there
    assert not any("AMX" in a for a in found)
    assert "-DGGML_NATIVE=ON" in arguments("aarch64", frozenset())
