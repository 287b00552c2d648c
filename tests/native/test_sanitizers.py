"""The tests of the native library under AddressSanitizer and UBSan."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bundles import ROOT

COMPILER = shutil.which("g++")
LIMIT_S = 300  # a quiet machine needs a fifth of it
# Parity of slates, utilities and columns, and hostile arrays.
TESTS = (
    "tests/service/engine/test_native.py", "tests/service/engine/test_native_border.py",
    "tests/service/engine/test_native_columns.py",
)  # fmt: skip
MISTAKES = {
    "heap-buffer-overflow": "volatile int* p = new int[i]; int x = p[i]; delete[] p; return x;",
    "heap-use-after-free": "volatile int* p = new int[4]; delete[] p; return p[i];",
    "signed integer overflow": "return i + 0x7fffffff;",
    "out of bounds for type": "int a[4] = {}; return a[i + 4];",
}


def runtime(name):
    """Return the path of a sanitizer's runtime library, or None where it is not installed."""
    if COMPILER is None:
        return None
    command = [COMPILER, f"-print-file-name=lib{name}.so"]
    path = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    return path if path.is_absolute() else None


RUNTIMES = [runtime("asan"), runtime("ubsan")]
pytestmark = pytest.mark.skipif(None in RUNTIMES, reason="no g++ with ASan and UBSan")


def build(directory, *arguments):
    """Return the path of a library that was compiled with the sanitizers."""
    subprocess.run(
        ["make", "--silent", "-C", str(ROOT / "native"), "SANITIZE=1", f"OUT={directory}",
         *arguments], check=True,
    )  # fmt: skip
    return directory / "libeglr_rerank_native.so"


def run(library, *arguments):
    """Run Python with the sanitizers' runtimes; NATIVE_LIBRARY names the library for the tests."""
    variables = {
        "LD_PRELOAD": " ".join(map(str, RUNTIMES)),
        # The interpreter and the graph's runtime leave memory to the end of the process.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "NATIVE_LIBRARY": str(library),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **variables},
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip


@pytest.mark.long
def test_the_tests_of_the_native_library_pass_under_the_sanitizers(tmp_path):
    tests = [path for path in TESTS if (ROOT / path).exists()]
    done = run(build(tmp_path), "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_ends_the_process_with_its_name(tmp_path, mistake):
    source = tmp_path / "planted.cc"
    exported = '__attribute__((visibility("default")))'
    source.write_text(f'extern "C" {exported} int planted(int i) {{ {MISTAKES[mistake]} }}\n')
    library = build(tmp_path, f"SOURCES={source}")
    call = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).planted(int(sys.argv[2])))"
    done = run(library, "-c", call, str(library), "1")
    assert done.returncode != 0
    assert mistake in done.stderr


def test_code_without_a_mistake_runs_under_the_sanitizers(tmp_path):
    source = tmp_path / "planted.cc"
    exported = '__attribute__((visibility("default")))'
    source.write_text(f'extern "C" {exported} int planted(int i) {{ return i + 1; }}\n')
    library = build(tmp_path, f"SOURCES={source}")
    call = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).planted(1))"
    done = run(library, "-c", call, str(library))
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
