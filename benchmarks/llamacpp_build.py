"""CMake arguments with which llama.cpp is compiled for this machine: the fair peer.

    CMAKE_ARGS="$(python -m benchmarks.llamacpp_build)" pip install llama-cpp-python

`-march=native` takes AMX wherever the processor announces it, and llama.cpp's AMX path crashes
where a hypervisor announces it and forbids it. So on x86 the instruction sets are named one by one,
all that /proc/cpuinfo lists but AMX; elsewhere `native` is right.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

# cpuinfo's flags -> ggml's option; an option is on where all its flags are there.
OPTIONS: dict[str, tuple[str, ...]] = {
    "GGML_SSE42": ("sse4_2",),
    "GGML_AVX": ("avx",),
    "GGML_AVX2": ("avx2",),
    "GGML_BMI2": ("bmi2",),
    "GGML_FMA": ("fma",),
    "GGML_F16C": ("f16c",),
    "GGML_AVX_VNNI": ("avx_vnni",),
    "GGML_AVX512": ("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"),
    "GGML_AVX512_VBMI": ("avx512vbmi",),
    "GGML_AVX512_VNNI": ("avx512_vnni",),
    "GGML_AVX512_BF16": ("avx512_bf16",),
}
ALWAYS = ("-DGGML_OPENMP=ON", "-DGGML_LLAMAFILE=ON", "-DLLAVA_BUILD=OFF")


def arguments(machine: str, flags: frozenset[str]) -> list[str]:
    """machine: as `platform.machine` says; flags: the processor's."""
    if machine not in ("x86_64", "AMD64") or not flags:
        return ["-DGGML_NATIVE=ON", *ALWAYS]
    sets = [f"-D{o}={'ON' if flags >= set(needs) else 'OFF'}" for o, needs in OPTIONS.items()]
    tune = [f"-DCMAKE_{language}_FLAGS=-mtune=native" for language in ("C", "CXX")]
    return ["-DGGML_NATIVE=OFF", *sets, *tune, *ALWAYS]


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the first processor's `flags` line lists; nothing where there is no such line."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(found.partition(":")[2].split())


if __name__ == "__main__":
    sys.stdout.write(" ".join(arguments(platform.machine(), processor_flags())) + "\n")
