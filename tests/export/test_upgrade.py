"""An older bundle, rewritten with item rows and graphs of intent, ranks alike."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from export.agreement import DisagreementError, agree
from export.draws import random_batches, random_lists
from export.graph.split import SplitError, split_file
from export.intent import check_intent
from export.upgrade import UpgradeOptions, upgrade
from model.data.errors import DataError
from service.engine.contract import INTENT_FILES, INTENT_STATIC, BundleError, Manifest
from service.engine.features.candidates import CandidateList
from service.engine.graph import open_graph
from service.engine.intent import SlateIntent
from service.engine.session import Session
from tests.support.bundles import BUNDLE, ROOT

OLD = ROOT / "tests" / "frozen" / "bundles" / "ranklens" / "1"


def without_intent(directory):
    """Copy the committed bundle without its graphs of intent."""
    shutil.copytree(BUNDLE, directory)
    for name in INTENT_FILES:
        (directory / name).unlink()
    Manifest.read(directory).write(directory)
    return directory


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
    assert agreement["intent"]["slates"] > 30
    assert agreement["intent"]["largest_difference"] < 3e-6
    assert agreement["intent"]["largest_departure_from_law"] < 2e-5


def test_a_bundle_of_item_rows_gets_graphs_of_intent_and_keeps_its_files(tmp_path):
    before = without_intent(tmp_path / "shop" / "1")
    assert not Session.load(before).supports_intent
    agreement = upgrade(UpgradeOptions(before, tmp_path / "shop" / "2", batches=4))
    assert agreement["largest_difference"] == 0.0
    after = Manifest.read(tmp_path / "shop" / "2")
    assert after.supports_intent
    assert (after.name, after.version) == ("shop", "2")
    assert Manifest.read(before).files.items() <= after.files.items()
    committed = Manifest.read(BUNDLE).files
    assert {name: after.files[name] for name in INTENT_FILES} == {
        name: committed[name] for name in INTENT_FILES
    }


def test_graphs_of_intent_that_depart_from_the_law_or_from_each_other_are_refused(
    session, monkeypatch
):
    lists = random_lists(session, 3, seed=3)
    assert check_intent(session, BUNDLE, lists)["largest_departure_from_law"] < 2e-5
    law = SlateIntent.adjustment
    with monkeypatch.context() as patch:
        patch.setattr(SlateIntent, "adjustment", lambda one, slate: law(one, slate) + 1e-3)
        with pytest.raises(DisagreementError, match=r"may depart by 0\.0002 from those without it"):
            check_intent(session, BUNDLE, lists)

    def ignoring_weights(path, *arguments, **options):
        graph = open_graph(path, *arguments, **options)
        if path.name != INTENT_STATIC:
            return graph
        return SimpleNamespace(
            get_providers=graph.get_providers,
            run=lambda names, feeds: graph.run(
                names, feeds | {"diversity_weight": 0 * feeds["diversity_weight"]}
            ),
        )

    monkeypatch.setattr("export.intent.open_graph", ignoring_weights)
    with pytest.raises(DisagreementError, match="on the gated form"):
        check_intent(session, BUNDLE, lists)


def test_other_rows_of_one_network_are_refused(old, upgraded, tmp_path):
    lists = random_lists(old, 12, seed=0)
    for network, message in (("generator", "position"), ("evaluator", "slates differ")):
        other = shutil.copytree(upgraded[0], tmp_path / network)
        rows = np.load(other / f"{network}.rows.npy")
        np.save(other / f"{network}.rows.npy", np.roll(rows, 1, axis=0))
        for name in ("golden.json", "golden.intent.json"):
            (other / name).write_text("[]")
        Manifest.read(other).write(other)
        new = Session.load(other)
        rows_of = (random_batches(session, lists, seed=0) for session in (old, new))
        with pytest.raises(DisagreementError, match=message):
            agree({"old": old, "new": new}, *rows_of)


def test_an_upgrade_that_compares_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="--batches: must be at least 1, got 0"):
        upgrade(UpgradeOptions(OLD, tmp_path / "ranklens" / "2", batches=0))


def test_no_graph_of_the_new_bundle_has_a_token_table(upgraded):
    for name in ("generator.onnx", "generator.static.onnx", "evaluator.onnx"):
        content = (upgraded[0] / name).read_bytes()
        assert b"embed.table" in (OLD / name).read_bytes()
        assert b"embed.table" not in content
        assert len(content) < (OLD / name).stat().st_size - 400_000


def test_a_bundle_with_graphs_of_intent_needs_no_upgrade(tmp_path):
    with pytest.raises(BundleError, match="has contract 3 and graphs of intent; the bundle needs"):
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
