"""Compile the libraries of a wheel, one for each instruction set of the compiler's target."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "eglr_rerank_native"


class NativeBuildHook(BuildHookInterface[Any]):
    """Build by the Makefile beside this file; CXX may name a cross compiler."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries to the wheel and tag it with their machine.

        Raises CalledProcessError with the compiler's message on stderr.
        """
        self._output = Path(tempfile.mkdtemp())
        make = ["make", "--silent", "-C", self.root]
        subprocess.run([*make, "variants", f"OUT={self._output}"], check=True)
        target = subprocess.run([*make, "target"], check=True, capture_output=True, text=True)
        build_data["tag"] = f"py3-none-{os.uname().sysname.lower()}_{target.stdout.strip()}"
        for library in sorted(self._output.glob("*.so")):
            build_data["force_include"][str(library)] = f"{PACKAGE}/{library.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the libraries outside the wheel."""
        shutil.rmtree(self._output)
