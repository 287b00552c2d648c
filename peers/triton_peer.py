"""Triton Inference Server with its python backend, over a model repository of one model.

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
from peers.work import parse_options

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
    """Run the server until SIGTERM and return its exit status."""
    options = parse_options(__doc__)
    server = server_directory()
    with tempfile.TemporaryDirectory() as directory:
        models, backends = Path(directory) / "models", Path(directory) / "backends"
        write_model(models / "rerank", options.workers, options.bundle)
        link_backend(server, backends / "python")
        return child.run(
            [
                str(server / "bin" / "tritonserver"),
                f"--model-repository={models}",
                f"--backend-directory={backends}",
                "--http-address=127.0.0.1",
                f"--http-port={options.port}",
                "--allow-grpc=false",
                "--allow-metrics=false",
                "--log-info=false",
            ],
            {
                **os.environ,
                # An embedded Python looks for its packages beside the first python3 of PATH.
                "PATH": os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ["PATH"]]),
                "PYTHONPATH": str(Path.cwd()),
            },
        )


def server_directory() -> Path:
    """Return the directory of the server inside the pytriton package. Raises ImportError."""
    package = importlib.util.find_spec("pytriton")
    if package is None or not package.submodule_search_locations:
        raise ImportError("pytriton is not installed; python -m loadtest peers --install makes it")
    return Path(package.submodule_search_locations[0]) / "tritonserver"


def write_model(model: Path, workers: int, bundle: Path) -> None:
    """Write the model's code and configuration into its directory of the model repository."""
    (model / "1").mkdir(parents=True)
    shutil.copy(MODEL, model / "1" / "model.py")
    config = CONFIG.format(workers=workers, bundle=bundle.resolve())
    (model / "config.pbtxt").write_text(config, encoding="utf-8")


def link_backend(server: Path, backend: Path) -> None:
    """Link the python backend beside its stub for this version of Python, as Triton requires."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    backend.mkdir(parents=True)
    for part in (*(server / "backends" / "python").iterdir(), stub):
        (backend / part.name).symlink_to(part)


if __name__ == "__main__":
    sys.exit(main())
