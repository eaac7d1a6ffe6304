"""Which instruction set the kernels are compiled for, chosen at run time.

Vectors have 16 lanes of 32 bits everywhere; LLVM splits them for processors with narrower
registers, so results are bitwise the same on every instruction set. Only the integer dot product is
written differently for each (`dots.py`), and with AMX, products of several tokens use tiles
(`amx.py`). `RBEE_CPU_ISA` forces one of `names()`.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from dataclasses import dataclass

from rbee_worker.errors import UsageError
from rbee_worker.ops.cpu.shared.forms import NATIVE, TILES

_V2 = ("sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16", "sahf")
_AVX2 = (*_V2, "avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe")
_AVX512 = (*_AVX2, *(f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl", "vnni")))
_NEWER = (  # what icelake-server has and other processors with AVX-512 VNNI may lack
    *("avx512vbmi", "avx512vbmi2", "avx512ifma", "avx512bitalg", "avx512vpopcntdq", "gfni"),
    *("vaes", "vpclmulqdq", "sha", "pku", "rdpid", "sgx", "clwb", "wbnoinvd", "pconfig", "fsrm"),
)
# Fixed names and features, not this machine's own: its kernels then run on every other one as well.
_X86: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {  # cpu, features it has and lacks
    "avx512amx": ("icelake-server", (*_AVX512, "amx-tile", "amx-int8"), _NEWER),
    "avx512vnni": ("icelake-server", _AVX512, _NEWER),
    "avxvnni": ("x86-64", (*_AVX2, "avxvnni"), ()),
    "avx2": ("x86-64", _AVX2, ()),
    "portable": ("x86-64", _V2, ()),
}
BF16, TILES_BF16 = "avx512bf16", "amx-bf16"
_ARM = ("aarch64", "arm64")
_X86_64 = ("x86_64", "AMD64")
_TILES = "amx-tile"
_ARCH_PRCTL, _REQ_XCOMP_PERM, _XTILEDATA = 158, 0x1023, 18  # of Linux on x86-64


@dataclass(frozen=True)
class Isa:
    """A compile target: `cpu`, `features` are LLVM's names, `dot` how integers are multiplied."""

    name: str
    cpu: str
    features: str
    dot: str  # "vnni512", "vnni256", "maddubs", "sdot" or "plain"


def unsupported() -> str | None:
    """Why this system cannot have the cpu backend, one sentence; None where it can.

    Linux only: threads find their cores, sleep and wake by its system calls, and processes that
    compile wait for each other by its file locks.
    """
    if sys.platform != "linux":
        return f"the cpu backend's threads need Linux, this is {sys.platform}."
    if platform.machine() not in (*_X86_64, *_ARM):
        found = platform.machine()
        return f"the cpu backend has kernels for x86-64 and 64-bit ARM, this is {found}."
    if sys.maxsize < 1 << 32:
        return "the cpu backend needs a 64-bit Python, this one has 32 bits."
    return None


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
def _host_features() -> dict[str, bool]:
    import llvmlite.binding as llvm  # imported late: the reference backend runs without it

    return dict(llvm.get_host_cpu_features())


def _host_name() -> str:
    import llvmlite.binding as llvm

    return str(llvm.get_host_cpu_name())


@functools.cache
def names() -> tuple[str, ...]:
    """Instruction sets that this machine executes, best first."""
    have = _host_features()
    if platform.machine() in _ARM:
        return ("neon", "portable") if have.get("dotprod") else ("portable",)
    able = [n for n, (_, needs, _) in _X86.items() if all(have.get(f) for f in needs)]
    if not tiles_permitted():
        able = [n for n in able if _TILES not in _X86[n][1]]
    return tuple(dict.fromkeys([*able, "portable"]))


@functools.cache
def tiles_permitted() -> bool:
    """Whether this process may use tile registers, which Linux grants to a process on request.

    The grant holds for its threads and forked children. False if the processor, the kernel or the
    system does not have them.
    """
    if sys.platform != "linux" or not _host_features().get(_TILES):
        return False
    numbers = (_ARCH_PRCTL, _REQ_XCOMP_PERM, _XTILEDATA)
    return int(ctypes.CDLL(None).syscall(*map(ctypes.c_long, numbers))) == 0


def multiplies_bf16() -> bool:
    """Whether this processor has AVX512-BF16, which no instruction set of `names()` implies."""
    return bool(_host_features().get(BF16))


def tiles_bf16() -> bool:
    """Whether it has AMX-BF16, which `avx512amx` does not imply, and Linux permits tiles."""
    return tiles_permitted() and bool(_host_features().get(TILES_BF16))


def bf16_ending() -> str:
    """What ends the variant of products in form b16 on this processor."""
    return TILES if tiles_bf16() else NATIVE if multiplies_bf16() else ""


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
    return target(name)


def targets() -> tuple[str, ...]:
    """Instruction sets that this machine can compile for, executable here or not."""
    return names() if platform.machine() in _ARM else tuple(_X86)


def target(name: str) -> Isa:
    """One of `targets()`. Raises UsageError on a system that cannot have the backend at all."""
    if why := unsupported():
        raise UsageError(f"the cpu backend cannot be had: {why}", fix="use --backend reference.")
    if platform.machine() in _ARM:
        have = _host_features()
        own = name == "neon"
        kept = {k: v for k, v in have.items() if own or k == "neon"}
        return _isa(name, _host_name() if own else "generic", kept)
    cpu, has, lacks = _X86[name]
    return _isa(name, cpu, dict.fromkeys(has, True) | dict.fromkeys(lacks, False))


def _isa(name: str, cpu: str, features: dict[str, bool]) -> Isa:
    text = ",".join(f"{'+' if on else '-'}{f}" for f, on in sorted(features.items()))
    return Isa(name, cpu, text, dot_of(text))
