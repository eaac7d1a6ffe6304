"""Which instructions the kernels are compiled for, chosen at run time.

Logical vectors are 16 lanes of 32 bits everywhere; a processor with narrower registers lets LLVM
split them, so results are bitwise the same on every instruction set. Only the integer dot product
is spelled differently (`emit.dot`). `RBEE_CPU_ISA` forces one of `names()`.
"""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass

import llvmlite.binding as llvm

from rbee_worker.errors import UsageError

_X86_WIDE = ("avx512", "amx", "avx10")  # prefixes of features that narrower choices leave out
_X86_AVX = ("avx", "fma", "f16c", "xop", "vaes", "vpclmulqdq", "evex512", "gfni")


@dataclass(frozen=True)
class Isa:
    """A compile target: `cpu`, `features` are LLVM's names, `dot` how integers are multiplied."""

    name: str
    cpu: str
    features: str
    dot: str  # "vnni512", "vnni256", "maddubs", "sdot" or "plain"


def converts_f16(features: str) -> bool:
    """Whether the target converts half precision itself."""
    return any(f in features.split(",") for f in ("+f16c", "+fp16", "+neon"))


def dot_of(features: str) -> str:
    """The integer dot product that a comma-separated LLVM feature string allows."""
    have = {f[1:] for f in features.split(",") if f.startswith("+")}
    if {"avx512vnni", "avx512bw"} <= have:
        return "vnni512"
    if "avxvnni" in have:
        return "vnni256"
    if "avx2" in have:
        return "maddubs"
    return "sdot" if "dotprod" in have else "plain"


@functools.cache
def names() -> tuple[str, ...]:
    """Instruction sets that this machine executes, best first."""
    have = llvm.get_host_cpu_features()
    if platform.machine() in ("aarch64", "arm64"):
        return ("neon", "portable") if have.get("dotprod") else ("portable",)
    found = []
    if have.get("avx512vnni") and have.get("avx512bw") and have.get("f16c"):
        found.append("avx512vnni")
    if have.get("avx2") and have.get("fma") and have.get("f16c"):
        found += (["avxvnni"] if have.get("avxvnni") else []) + ["avx2"]
    return (*found, "portable")


def choose(asked: str = "") -> Isa:
    """The instruction set `asked` for (the value of RBEE_CPU_ISA), or the best one.

    Raises UsageError when this machine cannot execute it.
    """
    name = asked or names()[0]
    if name not in names():
        raise UsageError(
            f"RBEE_CPU_ISA={asked!r} is not an instruction set of this processor.",
            fix=f"unset it, or choose one of {', '.join(names())}.",
        )
    have = llvm.get_host_cpu_features()
    if name in ("avx512vnni", "neon"):
        return _isa(name, llvm.get_host_cpu_name(), dict(have))
    if platform.machine() in ("aarch64", "arm64"):
        return _isa(name, "generic", {k: v for k, v in have.items() if k == "neon"})
    drop = (*_X86_WIDE, *(() if name == "avxvnni" else ("avxvnni", "avxifma", "avxneconvert")))
    if name == "portable":
        drop = (*_X86_WIDE, *_X86_AVX)
    return _isa(name, "x86-64", {k: v and not k.startswith(drop) for k, v in have.items()})


def _isa(name: str, cpu: str, features: dict[str, bool]) -> Isa:
    text = ",".join(f"{'+' if on else '-'}{f}" for f, on in sorted(features.items()))
    return Isa(name, cpu, text, dot_of(text))
