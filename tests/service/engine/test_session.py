"""Sessions: bundles that must be refused, batches, slates that must be refused, sampling."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import onnxruntime
import pytest

from service.engine.collate import ModelError, check_slate
from service.engine.constraints import SlateConstraints
from service.engine.contract import BundleError, Manifest
from service.engine.features.candidates import CandidateList
from service.engine.intent import DiversityTerm, build_intent
from service.engine.rows import Row, Slate, SlateSampling
from service.engine.session import Session
from tests.support.bundles import BUNDLE, ROOT


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(BUNDLE, tmp_path / "bundle")


def seal(directory):
    """Seal the manifest as it is now, so that only its content can be refused."""
    digest = hashlib.sha256((directory / "manifest.json").read_bytes()).hexdigest()
    (directory / "manifest.sha256").write_text(f"{digest}\n")


def rewrite(directory, **changes):
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    seal(directory)


def test_a_manifest_of_another_contract_is_refused_naming_both_versions(copy):
    rewrite(copy, contract_version=99)
    with pytest.raises(BundleError, match="is 99, but this service reads 2 and 3"):
        Session.load(copy)


def test_a_manifest_with_missing_or_unknown_fields_is_refused(copy):
    rewrite(copy, surprise=1)
    with pytest.raises(BundleError, match=r"unknown \['surprise'\]"):
        Session.load(copy)


def test_a_manifest_that_is_not_json_or_is_missing_is_refused(copy, tmp_path):
    (copy / "manifest.json").write_text("{")
    seal(copy)
    with pytest.raises(BundleError, match="not JSON"):
        Manifest.read(copy)
    with pytest.raises(BundleError, match="no such file"):
        Manifest.read(tmp_path / "nowhere")


def test_a_manifest_without_its_seal_is_refused(copy):
    path = copy / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"budget": 3', b'"budget": 2'))
    with pytest.raises(
        BundleError, match=r"manifest\.json: SHA-256 is \w+, but manifest\.sha256 says"
    ):
        Manifest.read(copy)
    (copy / "manifest.sha256").unlink()
    with pytest.raises(BundleError, match=r"manifest\.sha256: no such file"):
        Manifest.read(copy)


def test_a_missing_or_shortened_file_is_refused(copy):
    path = copy / "items.tokens.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"items\.tokens\.npy: \d+ bytes, but the manifest says"):
        Session.load(copy)
    path.unlink()
    with pytest.raises(BundleError, match=r"items\.tokens\.npy: the manifest names it, but"):
        Session.load(copy)


def test_a_bundle_whose_golden_request_decodes_to_another_slate_is_refused(copy):
    golden = json.loads((copy / "golden.json").read_text())
    golden[0]["slate"] = golden[0]["slate"][::-1]
    (copy / "golden.json").write_text(json.dumps(golden))
    manifest = Manifest.read(copy)
    manifest.write(copy)  # the hashes match again
    with pytest.raises(BundleError, match=r"golden\.json\[0\]\.slate"):
        Session.load(copy)


def test_a_bundle_whose_golden_request_with_intent_decodes_to_another_slate_is_refused(copy):
    golden = json.loads((copy / "golden.intent.json").read_text())
    golden[0]["request"]["diversity"][0]["weight"] = 0.0
    (copy / "golden.intent.json").write_text(json.dumps(golden))
    Manifest.read(copy).write(copy)
    with pytest.raises(BundleError, match=r"golden\.intent\.json\[0\]\.slate"):
        Session.load(copy)


def test_a_bundle_with_a_part_of_the_files_of_intent_is_refused(copy):
    (copy / "generator.intent.static.onnx").unlink()
    Manifest.read(copy).write(copy)
    with pytest.raises(BundleError, match=r"files must name 'generator\.intent\.static\.onnx'"):
        Session.load(copy)


def test_a_manifest_with_other_widths_than_the_featuriser_is_refused(copy):
    manifest = Manifest.read(copy)
    rewrite(copy, numbers=manifest.numbers + 1)
    with pytest.raises(BundleError, match="columns of numbers, but the manifest says"):
        Session.load(copy)


def test_a_row_gets_the_same_slate_alone_and_padded_in_a_batch(session, items):
    requests = [CandidateList(ids=items[:size]) for size in (1, 4, 9, 24, 120)]
    rows = [session.row(request) for request in requests]
    together = session.run(rows)
    for row, slate in zip(rows, together, strict=True):
        alone = session.run([row])[0]
        assert alone.indices.tolist() == slate.indices.tolist()
        assert alone.steps.tolist() == slate.steps.tolist()
        np.testing.assert_allclose(alone.logprob, slate.logprob, atol=1e-4)


def test_a_shorter_slate_is_the_head_of_a_longer_one(session, items):
    request = CandidateList(ids=items[:30])
    long, short = session.run([session.row(request), session.row(request, slate_size=3)])
    assert short.indices.tolist() == long.indices.tolist()[:3]


def make_slate(**changes):
    slate = Slate(
        indices=np.array([2, 0]),
        logprob=np.array([-0.1, -0.2], np.float32),
        entropy_before=np.zeros(2, np.float32),
        entropy_after=np.zeros(2, np.float32),
        steps=np.array([1, 0]),
    )
    return dataclasses.replace(slate, **changes)


ROW = Row(
    np.zeros((3, 1), np.float32),
    np.zeros((3, 1), np.int64),
    2,
    1,
    0.5,
    1.5,
    0.7,
    SlateConstraints.none(3, 2),
)


def test_a_valid_slate_passes():
    check_slate(make_slate(), ROW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indices": np.array([2, 2])}, "a candidate is repeated"),
        ({"indices": np.array([2, 3])}, "index outside a list of 3 candidates"),
        ({"indices": np.array([2, -1])}, "index outside a list of 3 candidates"),
        ({"indices": np.array([2])}, "has 1 positions, the row has 2"),
        ({"logprob": np.array([np.nan, 0], np.float32)}, "not finite"),
        ({"entropy_before": np.array([0, np.nan], np.float32)}, "not finite"),
        ({"entropy_after": np.array([0, np.inf], np.float32)}, "not finite"),
        ({"steps": np.array([2, 0])}, "must be from 0 to the budget of 1"),
        ({"utility": float("nan")}, "utility: must be finite, got nan"),
    ],
)
def test_an_invalid_slate_is_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        check_slate(make_slate(**changes), ROW)


def test_a_graph_that_fails_is_a_model_error(session):
    with pytest.raises(ModelError, match=r"the (graph|native library) failed"):
        session.run([ROW])


def test_a_slate_that_breaks_a_constraint_is_refused():
    pinned = SlateConstraints(np.array([1, -1]), np.arange(3), np.ones(3, np.float32))
    with pytest.raises(ModelError, match="position 0 holds candidate 2, 1 is pinned there"):
        check_slate(make_slate(), dataclasses.replace(ROW, constraints=pinned))


def test_a_seed_samples_the_same_slate_alone_and_in_a_batch(session, items):
    def sampled(seed, size=30, slates=4):
        row = session.row(CandidateList(ids=items[:size]))
        return dataclasses.replace(row, sampling=SlateSampling(slates, seed))

    plain = session.row(CandidateList(ids=items[:50]))
    (alone,) = session.run([sampled(7)])
    _, among, _ = session.run([plain, sampled(7), sampled(8)])
    assert alone.indices.tolist() == among.indices.tolist()
    assert alone.utility == pytest.approx(among.utility, abs=1e-6)
    (other,) = session.run([sampled(8)])
    assert other.indices.tolist() != alone.indices.tolist()
    (greedy,) = session.run([plain])
    assert greedy.utility is None


def test_the_best_of_more_sampled_slates_has_a_higher_utility(session, items):
    row = session.row(CandidateList(ids=items[:40]))
    utility = [
        session.run([dataclasses.replace(row, sampling=SlateSampling(slates, 3))])[0].utility
        for slates in (1, 4, 16)
    ]
    assert utility == sorted(utility)  # the first slates of a seed are the same for any number
    assert utility[0] < utility[2]


def with_intent(session, row, weight=1.0, decay=0.5, boosts=None):
    terms = [DiversityTerm("genres", weight, decay, "sum")]
    return dataclasses.replace(
        row, intent=build_intent(terms, [session.values("genres", row)], boosts)
    )


def test_an_intent_changes_its_own_slate_alone(session, items):
    rows = [session.row(CandidateList(ids=items[start : start + 40])) for start in (0, 40, 80)]
    rows[1] = with_intent(session, rows[1])
    plain = session.run([rows[0], dataclasses.replace(rows[1], intent=None), rows[2]])
    among = session.run(rows)
    same = [a.indices.tolist() == b.indices.tolist() for a, b in zip(plain, among, strict=True)]
    assert same == [True, False, True]
    for number in (0, 2):
        assert plain[number].logprob.tolist() == among[number].logprob.tolist()
    (alone,) = session.run([rows[1]])
    assert alone.indices.tolist() == among[1].indices.tolist()
    assert among[1].logits.shape == (10, 40)
    assert among[0].logits is None


def test_a_slate_with_diversity_holds_more_genres(session, items):
    def genres(slate, row):
        values = session.values("genres", row)
        return len({genre for i in slate.indices for genre in values[i]})

    rows = [
        session.row(CandidateList(ids=items[start : start + 50])) for start in range(0, 1000, 50)
    ]
    plain = session.run(rows)
    diverse = session.run([with_intent(session, row, weight=3.0) for row in rows])
    counts = np.array(
        [[genres(a, r), genres(b, r)] for a, b, r in zip(plain, diverse, rows, strict=True)]
    )
    assert (counts[:, 1] >= counts[:, 0]).all()
    assert counts[:, 1].mean() > counts[:, 0].mean() + 1


def test_a_boost_is_counted_in_the_log_probability_of_a_sampled_slate(session, items):
    row = session.row(CandidateList(ids=items[:30]), slate_size=1, budget=0)
    row = dataclasses.replace(row, sampling=SlateSampling(1, 7), recommend_temperature=1.0)
    boosts = np.zeros(30, np.float32)
    boosts[4] = 3.0
    boosted = with_intent(session, row, weight=0.0, boosts=boosts)
    (slate,) = session.run([boosted])
    logits = slate.logits[0].astype(np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    assert slate.logprob[0] == pytest.approx(np.log(probabilities[slate.indices[0]]), abs=1e-4)
    (plain,) = session.run([dataclasses.replace(row, explain=True)])
    difference = slate.logits[0] - plain.logits[0]
    np.testing.assert_allclose(difference, boosts, atol=1e-5)


def test_a_row_with_an_intent_is_refused_by_a_bundle_without_its_graph(items):
    old = Session.load(ROOT / "tests" / "frozen" / "bundles" / "ranklens" / "1")
    assert not old.supports_intent
    row = with_intent(old, old.row(CandidateList(ids=items[:9])))
    with pytest.raises(ModelError, match=r"the bundle has no generator\.intent\.onnx"):
        old.run([row])


def test_the_committed_bundle_has_golden_requests_with_diversity_and_with_boosts(session):
    golden = json.loads((BUNDLE / "golden.intent.json").read_text())
    kinds = set()
    for entry in golden:
        row = session.golden_row(entry["request"])
        kinds.add("diversity" if len(row.intent.weight) else "boost")
        (plain,) = session.run([dataclasses.replace(row, intent=None)])
        ids = [entry["request"]["candidates"][i]["id"] for i in plain.indices.tolist()]
        assert ids != entry["slate"]
    assert kinds == {"diversity", "boost"}


def test_a_session_that_falls_back_to_the_cpu_is_refused(monkeypatch):
    cpu = onnxruntime.InferenceSession

    def without_cuda(path, options, providers, **more):
        return cpu(path, options, providers=["CPUExecutionProvider"], **more)

    monkeypatch.setattr("service.engine.graph.ort.InferenceSession", without_cuda)
    with pytest.raises(BundleError, match="runs on CPUExecutionProvider instead of CUDA"):
        Session.load(BUNDLE, provider="cuda")
