"""The imports that each package and sub-package may have."""

import ast
import re
import subprocess
import sys

import pytest

from tests.support.import_rules import PACKAGES, ROOT, ROOTS, RULES


def imports_of(path):
    """Yield the absolute names of modules imported anywhere in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            package = node.module.split(".")[0]
            directory = ROOTS.get(package, ROOT) / node.module.replace(".", "/")
            if package in PACKAGES and directory.is_dir():
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def nearest_rule(module):
    name = module
    while name not in RULES:
        name = name.rpartition(".")[0]
    return name


def is_below(name, package):
    return name == package or name.startswith(f"{package}.")


def violations(path, module):
    rule = nearest_rule(module)
    third_party, project = RULES[rule]
    for name in imports_of(path):
        top = name.split(".")[0]
        if top in PACKAGES:
            if not any(is_below(name, package) for package in {rule, *project}):
                yield f"{module} imports {name}"
        elif top not in sys.stdlib_module_names and top not in third_party:
            yield f"{module} imports {name}"


def modules():
    for package in PACKAGES:
        root = ROOTS.get(package, ROOT)
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            if not name.startswith("client.rerank_client."):
                yield path, name.removesuffix(".__init__")


def test_every_module_imports_only_what_it_may():
    assert [line for path, name in modules() for line in violations(path, name)] == []


def test_every_package_has_modules_and_every_rule_a_module_that_follows_it():
    names = {name for _, name in modules()}
    assert {name.split(".")[0] for name in names} == set(PACKAGES)
    assert {nearest_rule(name) for name in names} == set(RULES)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("service.batching.batcher", "import torch"),
        ("service.batching.batcher", "from service.models import fleet"),
        ("service.engine.session", "from service import settings"),
        ("service.engine.session", "import fastapi"),
        ("service.engine.session", "from service.batching.budget import Forecast"),
        ("service.engine.contract", "import onnxruntime"),
        ("service.engine.features.featuriser", "import pydantic"),
        ("service.models.store", "from service.ranking import reranker"),
        ("service", "import fastapi"),
        ("service.__main__", "from service.http import api"),
        ("service.__main__", "import prometheus_client"),
        ("service.server", "import onnxruntime"),
        ("service.telemetry", "from service.metrics import STAGES"),
        ("service.settings", "import fastapi"),
        ("service.metrics", "from service.settings import Settings"),
        ("service.errors", "import fastapi"),
        ("service.errors", "import orjson"),
        ("service.ranking.reranker", "import fastapi"),
        ("service.ranking.reranker", "import pydantic"),
        ("service.ranking.reranker", "from service.http import parsing"),
        ("service.ranking.reranker", "from service.metrics import Metrics"),
        ("service.ranking.observer", "from service.http import responses"),
        ("service.state.engine", "from service.http import api"),
        ("service.state.engine", "import fastapi"),
        ("service.http.api", "from model.learning import train"),
        ("model.data.dataset", "from model.network import config"),
        ("model.data.shards.driver", "import ray"),
        ("model.data.dataset", "from service.journal import records"),
        ("model.data.join.reading", "from service.journal import journal"),
        ("model.data.join.reading", "from service.engine import session"),
        ("model.network.hosts", "from model.data.lists import Lists"),
        ("model.network.hosts", "import polars"),
        ("model.learning.train", "from model.study import grid"),
        ("model.learning.train", "from service.http.api import create_app"),
        ("model.learning.train", "from service.engine import session"),
        ("model.study.grid", "from export import bundle"),
        ("model.study.caller", "from model.data.metrics import ndcg"),
        ("model.offline.obp_child", "from model.offline import estimators"),
        ("export.bundle", "from model.study import grid"),
        ("export.bundle", "import fastapi"),
        ("export.verify", "from model.learning import train"),
        ("export.graph.lower", "from model.data import dataset"),
        ("loadtest.locustfile", "import service.engine.contract"),
        ("loadtest.capacity", "from model.study import click_model"),
        ("pages.reports", "from loadtest import plots"),
        ("pages.page", "import torch"),
        ("peers.work", "import schemathesis"),
        ("peers.work", "from service.http import api"),
        ("peers.litserve_peer", "from model.learning import checkpoint"),
        ("peers.lambdamart", "import torch"),
        ("peers.comparison", "import fastapi"),
        ("peers.comparison", "from service.engine import session"),
        ("peers.ray_peer", "import bentoml"),
        ("rerank_client.responses", "from service.http import schemas"),
        ("rerank_client.dispatch", "import numpy"),
        ("eglr_rerank_native", "import numpy"),
        ("client", "import httpx"),
        ("examples.rank", "from service.http import schemas"),
        ("deploy.ray.app", "from model.learning import train"),
        ("deploy.ray.app", "from loadtest import server"),
        ("deploy.ray.check", "from service import settings"),
    ],
)
def test_a_planted_violation_is_reported(tmp_path, module, line):
    planted = tmp_path / "planted.py"
    planted.write_text(f"def late():\n    {line}\n")
    assert list(violations(planted, module))


def test_the_service_loads_no_training_package():
    code = (
        "import sys, service.http.api, service.__main__;"
        "print([m for m in ('torch', 'onnx', 'polars', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_helpers_of_tests_live_in_tests_support_and_not_in_a_conftest():
    pattern = re.compile(r"^from tests\.\S*(conftest|test_\w+) import", re.MULTILINE)
    assert pattern.search("from tests.client.conftest import x\n")
    paths = (ROOT / "tests").rglob("*.py")
    assert [str(p) for p in paths if pattern.search(p.read_text(encoding="utf-8"))] == []
