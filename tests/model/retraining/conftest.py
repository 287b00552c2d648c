"""A store with a small model that was trained on a generated log, and that log."""

import dataclasses

import pytest

from model.retraining.run import retrain
from tests.support.retraining import linked, options_of
from tests.support.runs import SMOKE

# The export compares a graph with torch for each budget and for some lengths of lists.
CONFIG = dataclasses.replace(
    SMOKE, train_lists=None, max_candidates=8, slate_length=6,
    reasoning=dataclasses.replace(SMOKE.reasoning, budget=1),
    grpo=dataclasses.replace(SMOKE.grpo, epochs=1),
)  # fmt: skip


@pytest.fixture(scope="session")
def champion(once):
    """A directory with log.parquet, schema.yaml, the run `first` and the store `models`."""
    from export import bundle
    from model.learning import checkpoint
    from model.learning.train import train
    from tests.support.sales import write_sale

    def make(root):
        data = write_sale(root)
        train(CONFIG, data, root / "first")
        bundle.write(checkpoint.load(root / "first"), root / "models" / "sale" / "1", data)
        return root

    return once("retraining", make)


@pytest.fixture
def root(champion, tmp_path):
    return linked(champion, tmp_path / "root")


@pytest.fixture(scope="session")
def finished(champion, once):
    """A directory as `root` after a run whose candidate, version 2, is the shadow."""

    def make(directory):
        assert retrain(options_of(linked(champion, directory / "root"), keep_data=True)) == 0
        return directory / "root"

    return once("retrained", make)
