"""A bundle of contract 2, rewritten with item rows, ranks alike."""

import shutil

import numpy as np
import pytest

from export.agreement import DisagreementError, agree
from export.draws import random_batches, random_lists
from export.graph.split import SplitError, split_file
from export.upgrade import UpgradeOptions, upgrade
from service.engine.contract import BundleError, Manifest
from service.engine.features.candidates import CandidateList
from service.engine.session import Session
from tests.support.bundles import BUNDLE, ROOT

OLD = ROOT / "tests" / "frozen" / "bundles" / "ranklens" / "1"


@pytest.fixture(scope="module")
def old():
    return Session.load(OLD)


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory):
    """The directory of the rewritten bundle, and how far both agree."""
    out = tmp_path_factory.mktemp("upgrade") / "ranklens" / "2"
    return out, upgrade(UpgradeOptions(OLD, out, batches=12))


def test_an_upgraded_bundle_ranks_as_before(upgraded):
    out, agreement = upgraded
    assert agreement["slates"] > 30
    assert agreement["sampled"] > 3
    assert agreement["ties"] == 0
    assert agreement["largest_difference"] < 3e-6
    manifest = Manifest.read(out)
    assert (manifest.contract_version, manifest.version, manifest.items) == (3, "2", 2520)
    assert manifest.offline_metrics == Manifest.read(OLD).offline_metrics


def test_other_rows_of_one_network_are_refused(old, upgraded, tmp_path):
    lists = random_lists(old, 12, seed=0)
    for network, message in (("generator", "position"), ("evaluator", "slates differ")):
        other = shutil.copytree(upgraded[0], tmp_path / network)
        rows = np.load(other / f"{network}.rows.npy")
        np.save(other / f"{network}.rows.npy", np.roll(rows, 1, axis=0))
        (other / "golden.json").write_text("[]")
        Manifest.read(other).write(other)
        new = Session.load(other)
        rows_of = (random_batches(session, lists, seed=0) for session in (old, new))
        with pytest.raises(DisagreementError, match=message):
            agree({"old": old, "new": new}, *rows_of)


def test_no_graph_of_the_new_bundle_has_a_token_table(upgraded):
    for name in ("generator.onnx", "generator.static.onnx", "evaluator.onnx"):
        content = (upgraded[0] / name).read_bytes()
        assert b"embed.table" in (OLD / name).read_bytes()
        assert b"embed.table" not in content
        assert len(content) < (OLD / name).stat().st_size - 400_000


def test_a_bundle_of_item_rows_needs_no_upgrade(tmp_path):
    with pytest.raises(BundleError, match="contract_version must be 2, got 3"):
        upgrade(UpgradeOptions(BUNDLE, tmp_path / "ranklens" / "2"))
    assert not list(tmp_path.rglob("*.onnx"))


def test_a_graph_of_item_rows_is_not_split_again():
    with pytest.raises(SplitError, match=r"'embed\.table': must be in the graph"):
        split_file(BUNDLE / "evaluator.onnx", [0])


def test_groups_and_unknown_items_are_those_of_the_old_bundle(old, session, items):
    candidates = CandidateList(
        ids=[*items[:40], "nobody"],
        features=[{"director": "A. Nobody"} if i % 5 == 0 else {} for i in range(41)],
    )
    rows = {one: one.row(candidates) for one in (old, session)}
    groups = [one.groups("director", row) for one, row in rows.items()]
    assert groups[0] == groups[1]
    assert len(set(groups[0])) > 5
    assert [row.unknown for row in rows.values()] == [1, 1]
    with pytest.raises(KeyError):
        session.groups("genres", rows[session])
