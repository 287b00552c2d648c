"""The decode loop of the service as shared libraries, one for each instruction set."""

from __future__ import annotations

import platform
from pathlib import Path

__version__ = "0.2.0"

V2 = frozenset({"cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"})
V3 = V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
V4 = V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
# By machine: the variants, fastest first, with the flags of /proc/cpuinfo that each one needs.
VARIANTS = {
    "x86_64": {"x86-64-v4": V4, "x86-64-v3": V3, "x86-64-v2": V2},
    "aarch64": {"armv8-a": frozenset[str]()},
}


def library_path(machine: str | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the path of the fastest library that this processor can run.

    Args:
        machine: Name of the architecture; None takes that of this machine.
        cpuinfo: File with the processor's flags.

    Raises OSError if there is none.
    """
    machine = machine or platform.machine()
    variants = VARIANTS.get(machine, {})
    flags = processor_flags(cpuinfo) if any(variants.values()) else frozenset[str]()
    missing = f"no library for {machine}"
    for variant, needed in variants.items():
        path = Path(__file__).with_name(f"libeglr_rerank_native.{variant}.so")
        if not needed <= flags:
            missing = f"the processor lacks {', '.join(sorted(needed - flags))} of {variant}"
        elif path.is_file():
            return str(path)
        else:
            missing = f"{path} is missing; this wheel was built for another machine"
    raise OSError(f"eglr-rerank-native: {missing}")


def processor_flags(cpuinfo: Path) -> frozenset[str]:
    """Return the flags of the first processor. Raises OSError if the file cannot be read."""
    for line in cpuinfo.read_text("ascii", "replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()
