"""Triton Inference Server with its python backend, over one model repository made for the occasion.

The server is the binary that nvidia-pytriton ships; pytriton itself is not used.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from peers import child
from peers.work import arguments

MODEL = Path(__file__).with_name("triton_model.py")

CONFIG = """
name: "rerank"
backend: "python"
max_batch_size: 16
input [ {{ name: "body", data_type: TYPE_STRING, dims: [ 1 ] }} ]
output [ {{ name: "answer", data_type: TYPE_STRING, dims: [ 1 ] }} ]
dynamic_batching {{ }}
instance_group [ {{ count: {workers}, kind: KIND_CPU }} ]
parameters [ {{ key: "bundle", value: {{ string_value: "{bundle}" }} }} ]
"""


def main() -> int:
    """Run the server until SIGTERM; its exit status."""
    asked = arguments(__doc__)
    package = Path(importlib.util.find_spec("pytriton").submodule_search_locations[0])
    server = package / "tritonserver"
    with tempfile.TemporaryDirectory() as directory:
        models = Path(directory) / "models"
        model = models / "rerank"
        (model / "1").mkdir(parents=True)
        shutil.copy(MODEL, model / "1" / "model.py")
        # The backend wants the stub for this version of Python beside itself.
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        backend = Path(directory) / "backends" / "python"
        backend.mkdir(parents=True)
        stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
        for part in (*(server / "backends" / "python").iterdir(), stub):
            (backend / part.name).symlink_to(part)
        config = CONFIG.format(workers=asked.workers, bundle=asked.bundle.resolve())
        (model / "config.pbtxt").write_text(config, encoding="utf-8")
        return child.run(
            [
                str(server / "bin" / "tritonserver"),
                f"--model-repository={models}",
                f"--backend-directory={backend.parent}",
                "--http-address=127.0.0.1",
                f"--http-port={asked.port}",
                "--allow-grpc=false",
                "--allow-metrics=false",
                "--log-info=false",
            ],
            {
                **os.environ,
                # An embedded Python looks for its packages beside the first python3 of the path.
                "PATH": os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ["PATH"]]),
                "PYTHONPATH": str(Path.cwd()),
            },
        )


if __name__ == "__main__":
    sys.exit(main())
