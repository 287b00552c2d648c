"""The Makefile of the native library, and `make serve` with and without a compiler."""

import ctypes
import os
import re
import shutil
import subprocess

import pytest

from tests.support.bundles import ROOT

SOURCE = 'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }\n'
COMPILER = shutil.which("c++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@pytest.fixture
def directory(tmp_path):
    """Return a directory with the Makefiles and one short source."""
    (tmp_path / "native" / "src").mkdir(parents=True)
    shutil.copy(ROOT / "native" / "Makefile", tmp_path / "native")
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "native" / "src" / "answer.cc").write_text(SOURCE)
    return tmp_path


def make(directory, *arguments, **variables):
    kept = {n: v for n, v in os.environ.items() if n not in ("CXX", "MAKEFLAGS", "BUNDLE")}
    return subprocess.run(
        ["make", *arguments], cwd=directory, env={**kept, **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def answer(path):
    return ctypes.CDLL(str(path)).answer()


def test_the_library_of_a_checkout_lies_in_build_native_and_is_compiled_once(directory):
    first = make(directory, "native")
    assert first.returncode == 0, first.stderr
    library = directory / "build" / "native" / "libeglr_rerank_native.so"
    assert answer(library) == 42
    assert [path.name for path in library.parent.iterdir()] == [library.name]
    assert " -O3 " not in make(directory, "native").stdout
    (directory / "native" / "src" / "answer.h").write_text("")
    assert " -O3 " in make(directory, "native").stdout


def test_a_source_that_does_not_compile_leaves_the_last_library(directory):
    make(directory, "native")
    (directory / "native" / "src" / "answer.cc").write_text("int answer(")
    assert make(directory, "native").returncode == 2
    library = directory / "build" / "native" / "libeglr_rerank_native.so"
    assert answer(library) == 42
    assert [path.name for path in library.parent.iterdir()] == [library.name]


def test_every_instruction_set_of_the_compilers_target_is_built(directory):
    target = make(directory / "native", "--silent", "target").stdout.strip()
    expected = {"x86_64": ["x86-64-v2", "x86-64-v3", "x86-64-v4"], "aarch64": ["armv8-a"]}[target]
    done = make(directory / "native", "variants", f"OUT={directory / 'out'}")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (directory / "out").iterdir()) == [
        f"libeglr_rerank_native.{variant}.so" for variant in expected
    ]


def test_a_compiler_of_a_machine_without_variants_is_refused_by_name(directory):
    other = directory / "c++"
    other.write_text("#!/bin/sh\necho riscv64-linux-gnu\n")
    other.chmod(0o755)
    done = make(directory / "native", "variants", f"CXX={other}")
    assert done.returncode == 2
    assert "no variants for riscv64" in done.stderr


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
def test_the_library_needs_no_other_library_than_that_of_c(directory):
    shutil.rmtree(directory / "native" / "src")
    shutil.copytree(ROOT / "native" / "src", directory / "native" / "src")
    assert make(directory, "native", "OPTIMISE=-O1", "WERROR=1").returncode == 0
    library = directory / "build" / "native" / "libeglr_rerank_native.so"
    read = ["readelf", "--dynamic", str(library)]
    text = subprocess.run(read, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", text)) <= {"libc.so.6", "libm.so.6"}


@pytest.fixture
def serve(directory):
    """Return a function that runs `make serve` with an interpreter that prints its arguments."""
    for name in ("pyproject.toml", "constraints.txt"):
        (directory / name).write_text("")
    python = directory / ".venv-service" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    (directory / ".venv-service" / ".installed").write_text("")

    def serve(**variables):
        done = make(directory, "--silent", "serve", **variables)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "-m service\n"
        return done.stderr.splitlines()

    return serve


def test_serving_builds_the_library_where_a_compiler_is_there(serve, directory):
    assert serve() == ["native: built into build/native"]
    assert answer(directory / "build" / "native" / "libeglr_rerank_native.so") == 42


def test_serving_goes_on_without_a_compiler_and_says_so_in_one_line(serve, directory):
    (line,) = serve(CXX="no-such-compiler")
    assert line == (
        "native: not built, because there is no no-such-compiler; the service runs the ONNX graph"
    )
    assert not (directory / "build").exists()


def test_serving_goes_on_where_the_build_fails(serve, directory):
    (directory / "native" / "src" / "answer.cc").write_text("int answer(")
    *errors, line = serve()
    assert line == "native: the build failed; the service runs the ONNX graph"
    assert any("answer.cc:1" in error for error in errors)
