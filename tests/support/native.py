"""The native library of the tests: one that is named, or the sources compiled in a few seconds."""

import os
import shutil
import subprocess
from pathlib import Path

from service.engine.native_library import NativeLibrary
from tests.support.bundles import ROOT

SOURCES = ROOT / "native" / "src"
NAMED = "NATIVE_LIBRARY"  # the environment variable; sanitizer builds and emulators set it
FLAGS = (
    "-std=c++17", "-O1", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
    "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden", "-fPIC", "-shared", "-Wall", "-Wextra",
    "-Werror", "-Wno-psabi",
)  # fmt: skip


def compiler():
    """Return the path of a C++ compiler, or None."""
    return next(filter(None, map(shutil.which, ("g++", "clang++"))), None)


def is_available():
    return NAMED in os.environ or compiler() is not None


def compile_library(directory, *flags):
    """Compile the sources into a directory; return the path of the library."""
    path = directory / "libeglr_rerank_native.so"
    sources = sorted(str(source) for source in SOURCES.glob("*.cc"))
    command = [compiler(), *FLAGS, *flags, *sources, "-o", str(path)]
    subprocess.run(command, check=True, timeout=300)
    return path


def open_library(once):
    named = os.environ.get(NAMED)
    return NativeLibrary(Path(named) if named else once("native-library", compile_library))
