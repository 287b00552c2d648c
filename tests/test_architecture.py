"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("service", "model", "export", "loadtest", "client")
SERVING = {
    "fastapi", "starlette", "uvicorn", "pydantic", "pydantic_settings", "numpy", "onnxruntime",
    "prometheus_client", "orjson", "ormsgpack", "structlog", "opentelemetry",
}  # fmt: skip
TRAINING = {
    "torch", "numpy", "polars", "scipy", "yaml", "safetensors", "tqdm", "lightgbm", "matplotlib",
}  # fmt: skip
WALLS = {"service.contract", "service.feature_schema", "service.features"}
# Module, or the nearest package of one not listed -> (third party, project modules) it may import.
RULES = {
    "service.contract": ({"numpy"}, set()),
    "service.feature_schema": (set(), set()),
    "service.features": ({"numpy"}, WALLS),
    "service.constraints": ({"numpy"}, set()),
    "service.cuda": ({"numpy", "onnxruntime"}, {"service.contract"}),
    "service.budget": (set(), set()),
    "service.session": ({"numpy", "onnxruntime"},
                        {"service.budget", "service.constraints", "service.cuda", *WALLS}),
    "service.store": ({"pydantic"}, {"service.contract"}),
    "service.admission": (set(), {"service.session"}),
    "service.protocol": ({"fastapi", "httptools", "uvicorn"}, {"service.errors"}),
    "service": (SERVING, {"service"}),
    # Offline metrics come from the code that serves.
    "model.evaluate": (TRAINING, {"model", "service.session", *WALLS}),
    "model.__main__": (TRAINING, {"model", "service.session", *WALLS}),
    "model": (TRAINING, {"model", *WALLS}),
    "export": ({"torch", "onnx", "onnxscript", "onnxruntime", "openvino", "matplotlib", "numpy",
                "tqdm"},
               {"export", "model", "service.session", "service.constraints", "service.cuda",
                *WALLS}),
    "loadtest": ({"locust", "httpx", "httptools", "numpy", "hypothesis", "schemathesis",
                  "requests", "jsonschema_rs", "matplotlib", "orjson", "ormsgpack", "tqdm"},
                 {"loadtest"}),
    # Other servers around this service's own code for a request, each with its framework.
    "loadtest.peers": ({*SERVING, "tqdm", "httpx", "matplotlib", "litserve", "bentoml", "ray",
                        "mlserver", "pytriton", "triton_python_backend_utils"},
                       {"loadtest", "service"}),
    # These rank with what training left, not with the exported graph.
    "loadtest.peers.torch_fastapi": ({*SERVING, "torch"}, {"loadtest", "model", "service"}),
    "loadtest.peers.lambdamart": ({*SERVING, "lightgbm"}, {"loadtest", "model", "service"}),
    # Callers take it without the service's dependencies.
    "client": ({"httpx"}, {"client"}),
}  # fmt: skip


def imports_of(path):
    """Absolute module names imported anywhere in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            is_package = node.module in PACKAGES
            yield from (
                f"{node.module}.{a.name}" if is_package else node.module for a in node.names
            )


def violations(path, module):
    nearest = module
    while nearest not in RULES:
        nearest = nearest.rpartition(".")[0]
    third_party, own = RULES[nearest]
    for name in imports_of(path):
        top = name.split(".")[0]
        if top in PACKAGES:
            if top not in own and name not in own:
                yield f"{module} imports {name}"
        elif top not in sys.stdlib_module_names and top not in third_party:
            yield f"{module} imports {name}"


def modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield path, name.removesuffix(".__init__")


def test_every_module_imports_only_what_it_may():
    found = [violation for path, name in modules() for violation in violations(path, name)]
    assert found == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("service.batcher", "import torch"),
        ("service.features", "import pydantic"),
        ("model.train", "from service.app import create_app"),
        ("model.train", "from service import session"),
        ("service.app", "from model import train"),
        ("loadtest.locustfile", "import service.contract"),
        ("loadtest.peers.work", "import schemathesis"),
        ("loadtest.peers.litserve_peer", "from model import checkpoint"),
        ("loadtest.peers.lambdamart", "import torch"),
        ("client.answers", "from service import schemas"),
        ("client.call", "import numpy"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, module, line):
    planted = tmp_path / "planted.py"
    planted.write_text(f"def late():\n    {line}\n")
    assert list(violations(planted, module))


def test_the_service_loads_no_training_package():
    code = (
        "import sys, service.app, service.__main__;"
        "print([m for m in ('torch', 'onnx', 'polars', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
