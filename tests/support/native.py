"""The native library of the tests: one that is named, or the sources compiled in a few seconds."""

import os
import shutil
import subprocess
from pathlib import Path

from service.engine.native_library import NativeLibrary
from tests.support.bundles import ROOT

NAMED = "NATIVE_LIBRARY"  # the environment variable; sanitizer builds and emulators set it


def is_available():
    return NAMED in os.environ or shutil.which("c++") is not None


def compile_library(directory):
    """Compile the sources into a directory; return the path of the library."""
    subprocess.run(
        ["make", "--silent", "-C", str(ROOT / "native"), f"OUT={directory}", "OPTIMISE=-O1",
         "WERROR=1"], check=True, timeout=300,
    )  # fmt: skip
    return directory / "libeglr_rerank_native.so"


def open_library(once):
    named = os.environ.get(NAMED)
    return NativeLibrary(Path(named) if named else once("native-library", compile_library))
