"""Fixtures of all tests: the committed bundle, loaded once, and one server over it.

One thread per process: two cores are shared by tests, servers and child processes.
"""

import os
import shutil
from functools import partial
from typing import cast

import pytest

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(name, "1")  # before numpy or polars is imported
# httpx reads all trusted certificates for each client, which takes 25 ms, but no test needs one.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = os.path.dirname(__file__)

from service.engine import graph  # noqa: E402
from service.engine.native_backend import BackendName  # noqa: E402
from service.engine.session import Session  # noqa: E402
from tests.support import native  # noqa: E402
from tests.support.bundles import BUNDLE  # noqa: E402
from tests.support.graph_cache import opened_once  # noqa: E402
from tests.support.servers import application, serving  # noqa: E402
from tests.support.shared import common_root, make_once  # noqa: E402


def pytest_ignore_collect(collection_path, config):
    """Import no module without a test to run alone where only those run: that takes seconds."""
    if config.option.markexpr != "alone" or collection_path.suffix != ".py":
        return None
    return "pytest.mark.alone" not in collection_path.read_text(encoding="utf-8") or None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begin with long tests, so that no process of `make test` is alone with one at the end.

    Each of the two processes gets a half of the items, and long tests of a module share fixtures.
    """
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    places = {path: place for place, path in enumerate(dict.fromkeys(i.path for i in long))}
    first, second = ([i for i in long if places[i.path] % 2 == half] for half in (0, 1))
    middle = max(0, len(items) // 2 - len(first))
    items[:] = [*first, *others[:middle], *second, *others[middle:]]


@pytest.fixture(scope="session", autouse=True)
def equal_graphs_are_opened_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "open_graph", opened_once(graph.open_graph))
        yield


@pytest.fixture(scope="session")
def session():
    """The committed bundle, on the backend that RERANK_BACKEND names."""
    backend = cast(BackendName, os.environ.get("RERANK_BACKEND", "onnx"))
    return Session.load(BUNDLE, backend=backend)


@pytest.fixture(scope="session")
def url(session):
    """The base URL of a server that tests share."""
    with serving(application(session)) as base:
        yield base


@pytest.fixture(scope="session")
def items(session):
    """Known item ids, in the order of the table."""
    return list(session.featuriser.items.ids)


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """A function that makes a directory and a result once for all test processes."""
    return partial(make_once, common_root(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def native_library(once):
    """The native library: named by NATIVE_LIBRARY, or compiled from the sources."""
    if not native.is_available():
        pytest.skip("no C++ compiler, and NATIVE_LIBRARY names no library")
    return native.open_library(once)


@pytest.fixture(scope="session")
def whole_ranklens(once):
    """The committed RankLens events, prepared: the directory of the warm split."""
    from tests.support.logs import prepare

    def make(out):
        prepare("ranklens", "--out", out)
        return out / "warm"

    return once("whole-ranklens", make)


@pytest.fixture(scope="session")
def warm_ranklens(once, whole_ranklens):
    """The lists of every fourth user of both splits: the directory of the warm split."""
    from tests.support.logs import keep_users

    def make(out):
        for split in ("warm", "cold"):
            shutil.copytree(whole_ranklens.parent / split, out / split)
            keep_users(out / split, every=4)
        return out / "warm"

    return once("warm-ranklens", make)


@pytest.fixture(scope="session")
def smoke_run(once, warm_ranklens):
    """A finished training run in miniature: its directory."""
    from model.learning.train import train
    from tests.support.runs import SMOKE

    def make(out):
        train(SMOKE, warm_ranklens, out)
        return out

    return once("smoke-run", make)


@pytest.fixture(scope="session")
def smoke_bundle(once, smoke_run, warm_ranklens):
    """The bundle of that run: its directory, and what the export returned."""
    from export import bundle
    from model.learning import checkpoint

    def make(root):
        out = root / "smoke" / "1"
        return out, bundle.write(checkpoint.load(smoke_run), out, warm_ranklens)

    return once("smoke-bundles", make)
