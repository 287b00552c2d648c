"""The library that the package of the native decode loop takes for a processor."""

import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support.bundles import ROOT


def load_package():
    """Import the package of the checkout, which is installed nowhere and holds no library."""
    path = ROOT / "native" / "eglr_rerank_native" / "__init__.py"
    spec = importlib.util.spec_from_file_location("eglr_rerank_native", path)
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


native = load_package()
ALL = sorted(native.V4)
# Macro of the compiler -> flag of the kernel, where the names differ.
FLAGS = {
    "BMI": "bmi1",
    "GCC_HAVE_SYNC_COMPARE_AND_SWAP_16": "cx16",
    "LAHF_SAHF": "lahf_lm",
    "LZCNT": "abm",
    "SSE3": "pni",
}
# These follow from others: crc32 is in SSE4.2, and a fused product is fast where FMA is.
IMPLIED = {"crc32", "fp_fast_fma", "fp_fast_fmaf", "fp_fast_fmaf32", "fp_fast_fmaf64"}


@pytest.fixture
def choose(monkeypatch, tmp_path):
    """Return a function that chooses among built variants for a processor with some flags."""
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))

    def choose(flags, machine="x86_64", built=("x86-64-v2", "x86-64-v3", "x86-64-v4")):
        for variant in built:
            (tmp_path / f"libeglr_rerank_native.{variant}.so").touch()
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {' '.join(flags)}\nbogomips\t: 1\n")
        return Path(native.library_path(machine, cpuinfo)).suffixes[-2]

    return choose


@pytest.mark.parametrize(
    ("flags", "variant"),
    [(native.V2, ".x86-64-v2"), (native.V3, ".x86-64-v3"), (native.V4, ".x86-64-v4")],
)
def test_a_processor_gets_the_widest_vectors_that_it_has(choose, flags, variant):
    assert choose(flags) == variant


@pytest.mark.parametrize("flag", sorted(native.V4 - native.V3))
def test_a_processor_that_lacks_one_flag_gets_the_variant_below(choose, flag):
    assert choose(native.V4 - {flag}) == ".x86-64-v3"


def test_a_processor_below_every_variant_is_refused_by_the_flag_that_it_lacks(choose):
    with pytest.raises(OSError, match="the processor lacks popcnt of x86-64-v2"):
        choose(native.V4 - {"popcnt"})


def test_a_variant_that_was_not_built_leaves_the_next_one(choose):
    assert choose(ALL, built=["x86-64-v2"]) == ".x86-64-v2"


def test_every_aarch64_processor_runs_the_one_variant(choose):
    assert choose([], "aarch64", ["armv8-a"]) == ".armv8-a"


@pytest.mark.parametrize(
    ("machine", "message"),
    [("riscv64", "no library for riscv64"), ("x86_64", r"v2\.so is missing")],
)
def test_a_machine_without_a_library_is_named(choose, machine, message):
    with pytest.raises(OSError, match=message):
        choose(ALL, machine, built=[])


def test_a_processor_whose_flags_are_unreadable_is_refused(tmp_path):
    with pytest.raises(OSError, match="cpuinfo"):
        native.library_path("x86_64", tmp_path / "cpuinfo")
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(OSError, match="the processor lacks"):
        native.library_path("x86_64", empty)


@pytest.mark.parametrize("variant", native.VARIANTS["x86_64"])
def test_a_variant_needs_the_features_that_its_compiler_takes_for_granted(variant):
    if not target().startswith("x86_64"):
        pytest.skip("no compiler for x86-64")
    added = features(variant) - features("x86-64")
    assert added == native.VARIANTS["x86_64"][variant]


def target():
    if shutil.which("c++") is None:
        return "none"
    return subprocess.run(
        ["c++", "-dumpmachine"], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip


def features(architecture):
    """Return the instruction sets of an architecture, by the names of the compiler's macros."""
    command = ["c++", f"-march={architecture}", "-dM", "-E", "-x", "c++", "/dev/null"]
    macros = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^#define __([A-Z0-9_]+?)_* 1$", macros, re.MULTILINE)
    return {FLAGS.get(name, name.lower()) for name in names} - IMPLIED


def test_the_distribution_has_the_version_and_licence_of_the_service():
    project = tomllib.loads((ROOT / "native" / "pyproject.toml").read_text())["project"]
    service = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == service["version"] == native.__version__
    assert project["requires-python"] == service["requires-python"]
    assert "dependencies" not in project
    assert (ROOT / "native" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
