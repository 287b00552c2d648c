"""Fixtures of all tests: the committed bundle, loaded once, and one server over it.

One thread per process: two cores are shared by tests, servers and child processes.
"""

import os

import pytest

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(name, "1")  # before numpy or polars is imported

from service.engine.session import Session  # noqa: E402
from tests.support.bundles import BUNDLE  # noqa: E402
from tests.support.servers import application, serving  # noqa: E402


@pytest.fixture(scope="session")
def session():
    return Session.load(BUNDLE)


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
def warm_ranklens(tmp_path_factory):
    """The committed RankLens events, prepared: the directory of the warm split."""
    from tests.support.logs import prepare

    out = tmp_path_factory.mktemp("ranklens")
    prepare("ranklens", "--out", out)
    return out / "warm"


@pytest.fixture(scope="session")
def smoke_run(warm_ranklens, tmp_path_factory):
    """A finished training run in miniature: its directory."""
    from model.learning.train import train
    from tests.support.runs import SMOKE

    out = tmp_path_factory.mktemp("run")
    train(SMOKE, warm_ranklens, out)
    return out


@pytest.fixture(scope="session")
def smoke_bundle(smoke_run, warm_ranklens, tmp_path_factory):
    """The bundle of that run: its directory, and what the export returned."""
    from export import bundle
    from model.learning import checkpoint

    out = tmp_path_factory.mktemp("bundles") / "smoke" / "1"
    return out, bundle.write(checkpoint.load(smoke_run), out, warm_ranklens)
