"""The rows of a join give the arrays that were served, bit for bit, and the logged choices."""

import dataclasses
import functools
import json
import random
import shutil

import httpx
import numpy as np
import polars as pl
import pytest

from model.__main__ import main
from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.join import checking
from model.data.join.checking import ServedBundle
from model.data.join.joining import join
from model.data.join.options import JoinOptions
from model.data.join.served import served_lists
from model.data.layout import SPLITS
from model.data.schemas import SCHEMAS, load_schema
from service.engine.session import Session
from service.journal.records import Bundle
from service.journal.replay import replay_row
from service.state.address import parse_address
from tests.support.bundles import BUNDLE
from tests.support.journals import records_in, write_segment
from tests.support.logs import prepare
from tests.support.servers import fresh

HOUR = 3_600_000
SCHEMA = SCHEMAS / "ranklens.yaml"
KEY = ["request_id", "item_id"]
NDJSON = {"content-type": "application/x-ndjson"}
NEW = {"release_year": 2020.0, "genres": ["Drama", "War"]}


@pytest.fixture(scope="module")
def loaded():
    """A bundle of this module alone, on the graph, whose runs are spied on."""
    return Session.load(BUNDLE)


def bodies_of(draw, items):
    """Return lists with scores, features, histories and users of every form."""
    for number in range(6):
        ids = [*draw.sample(items, 12), "new"]
        candidates = [{"id": item, "score": draw.random()} for item in ids]
        candidates[-1]["features"] = NEW
        history = [{"id": i, "label": draw.choice([0, 0.3, 1])} for i in draw.sample(items, 150)]
        history[-1] = {"id": "new", "label": 1.0, "features": NEW}
        user = {"id": f"u{number}", "history": history}
        yield {"candidates": candidates, **({"user": user} if number else {}), "slate_size": 6}
    yield {"candidates": items[:9], "user": {"id": "stored"}}
    yield {"candidates": ["brand new", *items[3:9]], "user": {"id": "stored"}}
    features = {"runtime": [90.5 + n for n in range(9)], "director": ["someone", None, "x"] * 3}
    yield {"candidates": {"id": items[10:19], "features": features}}


@pytest.fixture(scope="module")
def served(loaded, items, tmp_path_factory):
    """The rows that were served, the records of their decisions, and the directory of the join."""
    directory, draw, rows, run = tmp_path_factory.mktemp("served"), random.Random(5), [], loaded.run
    settings = {
        "journal": f"files://{directory}/journal",
        "explore_share": 0.5,
        "state": parse_address(f"lmdb://{directory}/state"),
    }

    def spy(batch):
        rows.extend(batch)
        return run(batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded, "run", spy)
        with fresh(loaded, **settings) as url, httpx.Client(base_url=url, timeout=60) as client:
            stored = [{"item": "brand new", "features": {"release_year": 1999, "genres": ["War"]}}]
            stored += [{"item": item, "features": {"runtime": 100.25}} for item in items[:5]]
            lines = "".join(f"{json.dumps(one)}\n" for one in stored)
            client.put("/items", content=lines, headers=NDJSON).raise_for_status()
            likes = [
                {"event_id": f"s{n}", "user": "stored", "item": items[n], "type": "like"}
                for n in range(20)
            ]
            client.post("/feedback", json={"events": likes}).raise_for_status()
            rows.clear()  # those of the warm-up
            for body in bodies_of(draw, items):
                answer = client.post("/rerank", json=body).raise_for_status().json()
                like = {
                    "event_id": answer["request_id"], "request_id": answer["request_id"],
                    "item": answer["slate"][2]["id"], "type": "like",
                }  # fmt: skip
                client.post("/feedback", json={"events": [like]}).raise_for_status()
    records = [each for each in records_in(directory / "journal") if each.kind == "decision"]
    options = JoinOptions(load_schema(SCHEMA), HOUR, HOUR)
    until, bundle = records[-1].at + 4 * HOUR, ServedBundle(loaded)
    counts = join(directory / "journal", directory / "out", options, until, bundle)
    assert (counts["lists"], counts["events: joined"]) == (9, 9)
    assert counts["lists: compared with those served"] == counts["lists: replayed"] == 9
    assert counts["impressions"] >= 27
    return rows, records, directory / "out"


def rows_again(loaded, served, change=lambda request: request):
    """Return the row of each decision that its joined list gives, after a change of the list."""
    _, records, out = served
    lists = dict(served_lists(out, loaded.featuriser.schema))
    assert lists.keys() == {record.record for record in records}
    for record in records:
        policy = record.policy
        yield loaded.row(
            change(lists[record.record]), len(record.slate), policy.granted, policy.threshold
        )


def arrays_of(row):
    """Return the bytes of the featurised arrays."""
    return [array.tobytes() for array in (row.numbers, row.tokens, row.rows)]


def test_joined_rows_are_featurised_as_they_were_served_bit_for_bit(loaded, served):
    rows, records, _ = served
    again = list(rows_again(loaded, served))
    assert len(rows) == len(again) == 9
    for record, row, once_more in zip(records, rows, again, strict=True):
        assert arrays_of(once_more) == arrays_of(row), record.request_id


def without_history(request):
    """Return a list as a featuriser that forgets the latest answer would read it."""
    return dataclasses.replace(
        request, history=request.history[:-1], history_features=request.history_features[:-1]
    )


def without_features(request):
    """Return a list as a featuriser that reads no inline value would read it."""
    return dataclasses.replace(request, features=())


def without_store(request):
    """Return a list as a featuriser that reads no stored item would read it."""
    return dataclasses.replace(request, stored=None)


@pytest.mark.parametrize("change", [without_history, without_features, without_store])
def test_a_perturbed_featuriser_is_noticed(loaded, served, change):
    rows = served[0]
    pairs = zip(rows, rows_again(loaded, served, change), strict=True)
    assert [arrays_of(row) == arrays_of(again) for row, again in pairs].count(False) >= 1


def test_a_join_whose_lists_differ_from_those_served_is_refused_and_recorded_nowhere(
    loaded, served, tmp_path, monkeypatch
):
    before = served_lists

    def perturbed(files, schema):
        return ((record, without_history(one)) for record, one in before(files, schema))

    monkeypatch.setattr(checking, "served_lists", perturbed)
    refuse(r"\d of 9 joined lists give other arrays than journalled ones", loaded, served, tmp_path)


def refuse(message, loaded, served, directory, journal=None):
    """Join the journal of the service, or another one, with a check that fails by this message."""
    _, records, out = served
    options, until = JoinOptions(load_schema(SCHEMA), HOUR, HOUR), records[-1].at + 4 * HOUR
    journal = journal or out.parent / "journal"
    with pytest.raises(DataError, match=message):
        join(journal, directory / "out", options, until, ServedBundle(loaded))
    assert not (directory / "out" / "join.json").exists()


@pytest.mark.parametrize("change", [without_history, without_store])
def test_a_featuriser_other_than_the_one_that_served_is_refused_by_the_check(
    loaded, served, tmp_path, monkeypatch, change
):
    for name in ("encode", "transform"):  # of both sides of the comparison of arrays
        before = getattr(loaded.featuriser, name)
        monkeypatch.setattr(loaded.featuriser, name, lambda one, before=before: before(change(one)))
    refuse("code, bundle or temperatures are not those that served", loaded, served, tmp_path)


def changed_journal(served, directory, change):
    """Write a journal of the decisions with a change, and return it."""
    directory.mkdir()
    write_segment(directory, [change(record) for record in served[1]])
    return directory


def test_a_temperature_other_than_the_logged_one_is_refused_by_the_check(loaded, served, tmp_path):
    def warmer(record):
        temperature = 1.1 * record.policy.recommend_temperature
        policy = dataclasses.replace(record.policy, recommend_temperature=temperature)
        return dataclasses.replace(record, policy=policy)

    journal = changed_journal(served, tmp_path / "journal", warmer)
    refuse("code, bundle or temperatures are not", loaded, served, tmp_path, journal)


def test_a_check_by_a_bundle_that_made_none_of_the_lists_is_refused(served, tmp_path, capsys):
    other = Bundle("ranklens", "0", "0" * 64)
    journal = changed_journal(
        served, tmp_path / "journal", lambda record: dataclasses.replace(record, bundle=other)
    )
    arguments = [
        "join", "--journal", journal, "--schema", SCHEMA, "--out", tmp_path / "out", "--wait", "1h",
        "--part", "1h", "--until", served[1][-1].at + 4 * HOUR, "--check",
    ]  # fmt: skip
    assert main([str(each) for each in (*arguments, BUNDLE)]) == 2
    message = "--check: must be a bundle that made some of the lists, which are of ranklens/0 (9)"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "join.json").exists()


def test_another_temperature_or_bundle_is_noticed(loaded, served):
    _, records, _ = served
    sampled = next(record for record in records if record.policy.kind == "explore")
    row = replay_row(sampled, loaded)
    again = dict(zip((r.record for r in records), rows_again(loaded, served), strict=True))
    row = dataclasses.replace(
        again[sampled.record],
        sampling=row.sampling,
        reason_temperature=row.reason_temperature,
        recommend_temperature=row.recommend_temperature,
    )
    (slate,) = loaded.run([row])
    assert slate.logprob.tolist() == sampled.logprob
    warmer = dataclasses.replace(row, recommend_temperature=1.01 * row.recommend_temperature)
    (slate,) = loaded.run([warmer])
    assert slate.logprob.tolist() != sampled.logprob
    sampled = dataclasses.replace(
        sampled, bundle=dataclasses.replace(sampled.bundle, digest="0" * 64)
    )
    with pytest.raises(ValueError, match="the decision was made by ranklens/1 of SHA-256 000"):
        replay_row(sampled, loaded)


@pytest.fixture(scope="module")
def prepared(served, tmp_path_factory):
    """A data set that `prepare` made of the join, with the lists as they were served."""
    return prepare_log(served[2], tmp_path_factory.mktemp("prepared"), "--served", served[2])


def prepare_log(joined, directory, *options):
    """Prepare the log of a join and return the directory of the data set."""
    log, out = joined / "impressions", directory / "data"
    prepare("impressions", "--log", log, "--schema", SCHEMA, *options, "--out", out)
    return out


@functools.cache
def untouched_featuriser():
    """Return the featuriser of a bundle that has served nothing."""
    return ServedBundle.load(BUNDLE).featuriser


def trained_and_served(data, served):
    """Return the arrays of each list of a data set, and those of its displayed items as served."""
    featuriser = untouched_featuriser()
    dataset = Dataset(data, featuriser=featuriser)
    arrays = dataset.lists(SPLITS, fresh=True)
    ids, records = dataset.requests(SPLITS)["request_id"], {r.record: r for r in served[1]}
    assert sorted(ids) == sorted(records)
    for place, record in enumerate(records[request] for request in ids):
        used = featuriser.transform(record.candidate_list())
        width = len(record.slate)
        of_training = [array[place, :width].tobytes() for array in (arrays.numbers, arrays.tokens)]
        yield record.record, of_training, [array[record.slate].tobytes() for array in used]


def test_training_on_the_prepared_log_has_the_features_that_were_served_bit_for_bit(
    served, prepared
):
    lists = list(trained_and_served(prepared, served))
    assert len(lists) == 9
    for record, of_training, of_service in lists:
        assert of_training == of_service, record


def test_displayed_items_alone_give_other_features(served, tmp_path):
    lists = trained_and_served(prepare_log(served[2], tmp_path), served)
    assert all(of_training != of_service for _, of_training, of_service in lists)


def nudge(column):
    """Return numbers of the next larger size that a float32 tells apart."""
    return (column.cast(pl.Float32).to_numpy() * np.float32(1 + 1e-6)).astype(np.float64)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("candidates", lambda rows, _: rows.with_columns(like_rate=nudge(rows["like_rate"]))),
        ("candidates", lambda rows, displayed: rows.join(displayed, on=KEY, how="semi")),
        ("histories", lambda rows, _: rows.with_columns(rate=nudge(rows["rate"]))),
        ("histories", lambda rows, _: rows.filter(pl.col("item_id") != "new")),
        ("histories", lambda rows, _: rows.with_columns(features=pl.lit(None, pl.Binary))),
    ],
    ids=["statistics", "candidates", "rates", "histories", "features of histories"],
)
def test_a_data_set_with_other_values_than_were_served_is_noticed(
    served, prepared, tmp_path, file, change
):
    copy = tmp_path / "data"
    shutil.copytree(prepared, copy)
    displayed = pl.read_parquet(copy / "impressions.parquet", columns=KEY)
    change(pl.read_parquet(copy / f"{file}.parquet"), displayed).write_parquet(
        copy / f"{file}.parquet"
    )
    pairs = trained_and_served(copy, served)
    assert [training == service for _, training, service in pairs].count(False) >= 1
