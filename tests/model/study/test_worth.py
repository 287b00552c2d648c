"""The check of the printed worth: a caller over HTTP, and the report."""

import io
import json
import shutil
import threading
import urllib.error
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import polars as pl
import pytest

from model.data.dataset import Dataset
from model.learning.evaluate import evaluate, http_ranker
from model.study import worth
from model.study.caller import Log, measure
from model.study.commands import Worth
from model.study.moving_items import write_changing_items, write_fading_items
from tests.support.logs import prepare
from tests.support.sales import LENGTH, in_place_of_a_session, write_sale


@pytest.fixture(scope="module")
def sale(tmp_path_factory):
    return write_sale(tmp_path_factory.mktemp("sale"))


@pytest.fixture(scope="module")
def url(sale):
    """A service that ranks by the price in a request, else by that of the item table."""
    table = dict(pl.read_parquet(sale / "items.parquet").select("item_id", "price").iter_rows())

    class Cheapest(BaseHTTPRequestHandler):
        degraded = None

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = json.dumps({"responses": list(map(self.rank, body["requests"]))}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def rank(self, request):
            candidates = request["candidates"]
            prices = [c.get("features", {}).get("price", table[c["id"]]) for c in candidates]
            slate = [
                {"id": candidates[place]["id"], "initial_position": place}
                for place in np.argsort(prices, kind="stable")[:LENGTH].tolist()
            ]
            return {"slate": slate, "reasoning": {"steps_used": 0}, "degraded": self.degraded}

        def log_message(self, *arguments):
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Cheapest)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_caller_measures_what_evaluate_prints_for_either_kind(sale, url):
    log = Log(sale.parent / "log.parquet", sale)
    printed = evaluate(in_place_of_a_session(Dataset(sale).featuriser), sale, rank=http_ranker(url))
    bare, fresh = measure(log, url), measure(log, url, ["price"])
    assert bare["lists"] == fresh["lists"] == printed["lists"]
    assert bare["ndcg@10"] == pytest.approx(printed["ndcg@10"][0], abs=1e-4)
    assert fresh["ndcg@10"] == pytest.approx(printed["fresh"]["ndcg@10"][0], abs=1e-4)
    assert fresh["ndcg@10"] > bare["ndcg@10"] + 0.05


def test_a_caller_sends_the_history_before_each_list_and_features_that_only_the_data_set_has(sale):
    log = Log(sale.parent / "log.parquet", sale)
    rows = pl.read_parquet(sale.parent / "log.parquet")
    columns = pl.read_parquet(sale / "impressions.parquet").columns
    names = ["price", *({"like_rate"} & set(columns))]
    tests = list(log.lists(names))
    assert len(tests) == len(pl.read_parquet(sale / "impressions.parquet").filter(
        split="test")["request_id"].unique())  # fmt: skip
    listed, history = tests[-1]
    user, time = listed[0]["user_id"], listed[0]["timestamp"]
    earlier = rows.filter((pl.col("user_id") == user) & (pl.col("timestamp") < time))
    assert history == [(item, label > 0.5) for item, label in
                       earlier.select("item_id", "label").iter_rows()][-128:]  # fmt: skip
    assert all(set(names) <= set(row) for row in listed)


def test_a_list_without_a_user_has_no_history(sale, tmp_path):
    rows = pl.read_parquet(sale.parent / "log.parquet")
    anonymous = pl.col("user_id").replace("u1", None)
    rows.with_columns(anonymous).write_parquet(tmp_path / "log.parquet")
    lists = list(Log(tmp_path / "log.parquet", sale).lists([]))
    assert {len(history) > 0 for rows, history in lists if rows[0]["user_id"]} == {True}
    assert {len(history) for rows, history in lists if rows[0]["user_id"] is None} == {0}
    rows.drop("user_id").write_parquet(tmp_path / "log.parquet")
    assert all(not history for _, history in Log(tmp_path / "log.parquet", sale).lists([]))


def test_a_degraded_response_is_no_measurement(sale, url, monkeypatch):
    log = Log(sale.parent / "log.parquet", sale)
    reply = {"slate": [], "degraded": {"reason": "deadline"}}

    class Degraded:
        def __enter__(self):
            return self

        def __exit__(self, *raised): ...

        def read(self):
            return json.dumps({"responses": [reply] * 16}).encode()

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Degraded())
    with pytest.raises(OSError, match=r"degraded \(deadline\); the machine is busy"):
        measure(log, url)


@pytest.mark.parametrize("write", [write_changing_items, write_fading_items])
def test_a_generated_log_depends_on_its_seed_alone(write, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write(tmp_path / name, seed)
    first, again, other = (pl.read_parquet(tmp_path / name / "log.parquet") for name in "abc")
    assert first.equals(again)
    assert not first.equals(other)
    assert 0.15 < first["label"].to_numpy().mean() < 0.3


def test_the_report_has_a_row_per_case_seed_and_caller_and_resumes(tmp_path, monkeypatch):
    measured = []

    def measure_case(case, seed, _config, _scratch, _smoke):
        measured.append((case, seed))
        row = {"case": case, "seed": seed, "caller": "ids only", "printed": 0.5, "low": 0.4,
               "high": 0.6, "measured": 0.55, "inside": True,
               "over shown order": [0.1, 0.05, 0.15]}  # fmt: skip
        outside = {**row, "caller": "fresh", "measured": 0.7, "inside": False}
        stale = {"feature": "price", "rows": 0.5, "lists": 9, "ndcg@10 gain": [0.2, 0.1, 0.3]}
        return {"rows": [row, outside] if seed else [row], "lists": 9, "keep_fresh": [stale]}

    monkeypatch.setattr(worth, "measure_case", measure_case)
    command = Worth(seeds=1, out=tmp_path / "out", cache=tmp_path / "cache")
    assert command.execute() == 0
    assert Worth(seeds=2, out=tmp_path / "out", cache=tmp_path / "cache").execute() == 1
    assert measured == [(case, seed) for seed in (0, 1) for case in worth.CASES]
    only = Worth(seeds=1, cases=("fading items",), out=tmp_path / "one", cache=tmp_path / "new")
    assert only.execute() == 0
    assert measured[6:] == [("fading items", 0)]
    page = (tmp_path / "out" / "worth.md").read_text()
    line = "| fading items | 1 | fresh | 0.5000 [0.4000, 0.6000] | 0.7000 | no |"
    assert line in page
    assert "| fading items | 1 | `price` | 50 % | +0.2000 [+0.1000, +0.3000] |" in page


def test_a_command_that_fails_is_named_with_its_last_line(tmp_path):
    with pytest.raises(worth.CommandError, match=r"python -m model evaluate .*status 2, evaluate:"):
        worth.run("model", "evaluate", "--bundle", tmp_path / "none")


RATED = """
name: rated
label: {range: [0, 4], gain: exponential, positive: 3}
features:
  - {name: genre, of: item, kind: category}
  - {name: score, of: candidate, kind: number}
  - {name: age, of: candidate, kind: number}
  - {name: city, of: user, kind: category}
  - {name: hour, of: context, kind: category}
"""
RATED_LOG = """request_id,user_id,timestamp,position,item_id,label,genre,score,age,city,hour
r1,7,0,0,1,4,a,.5,1,rome,9
r1,7,0,1,2,1,b,.25,2,rome,9
r2,7,9000000,0,2,3,b,.75,,rome,10
r2,7,9000000,1,1,0,a,.5,4,rome,10
"""


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    directory = tmp_path_factory.mktemp("rated")
    (directory / "schema.yaml").write_text(RATED)
    (directory / "log.csv").write_text(RATED_LOG)
    prepare("impressions", "--log", directory / "log.csv", "--schema", directory / "schema.yaml",
            "--split", "last-list", "--out", directory / "data")  # fmt: skip
    frame = pl.read_csv(directory / "log.csv").with_columns(pl.col("item_id").cast(pl.Float64))
    frame.write_parquet(directory / "log.parquet")
    return directory


@pytest.mark.parametrize("log", ["log.parquet", None])
def test_a_caller_sends_score_features_and_scaled_labels_whatever_the_ids_are(
    rated, log, monkeypatch
):
    sent = []

    def answer(_url, bodies):
        sent.extend(bodies)
        yield from ([0, 1] for _ in bodies)

    monkeypatch.setattr("model.study.caller._rerank", answer)
    result = measure(Log(rated / log if log else None, rated / "data"), "http://localhost")
    assert (result["lists"], result["liked"]) == (1, "label >= 3")
    assert (result["graded lists"], 0 < result["graded ndcg@10"] <= 1) == (1, True)
    (body,) = sent
    assert body["user"] == {
        "id": "7",
        "features": {"city": "rome"},
        "history": [{"id": "1", "label": 1.0}, {"id": "2", "label": 0.25}],
    }
    assert body["context"] == {"hour": "10"}
    assert sorted(body["candidates"], key=lambda entry: entry["id"]) == [
        {"id": "1", "score": 0.5, "features": {"age": 4.0}},
        {"id": "2", "score": 0.75},
    ]


def test_a_caller_sends_the_stored_histories_of_a_data_set_that_has_them(rated, tmp_path):
    data = shutil.copytree(rated / "data", tmp_path / "data")
    entries = {"item_id": ["2", "9"], "label": [0.5, 1.0]}
    for request, expected in (("r2", [("2", 0.5), ("9", 1.0)]), ("r1", [])):
        frame = pl.DataFrame({"request_id": [request] * 2, **entries})
        frame = frame.cast({"label": pl.Float32})
        frame.write_parquet(data / "histories.parquet")
        ((_, history),) = Log(None, data).lists([])
        assert history == expected
        (impression,) = Dataset(data).impressions(["test"])
        assert list(impression.request.history) == expected


@pytest.mark.parametrize("gain", ["exponential", "linear"])
def test_a_caller_measures_the_graded_figures_that_evaluate_prints(tmp_path, monkeypatch, gain):
    draw = np.random.default_rng(0)
    requests, length = 60, 6
    rows = requests * length
    frame = pl.DataFrame({
        "request_id": np.repeat([f"r{number}" for number in range(requests)], length),
        "user_id": np.repeat([f"u{number // 2}" for number in range(requests)], length),
        "timestamp": np.repeat(np.arange(requests), length) * 60_000,
        "position": np.tile(np.arange(length), requests),
        "item_id": draw.permuted(np.tile(np.arange(length), (requests, 1)), axis=1).ravel(),
        "label": draw.choice([0, 0, 1, 2, 3], rows),
    })  # fmt: skip
    frame.write_csv(tmp_path / "log.csv")
    (tmp_path / "schema.yaml").write_text(
        f"name: g\nlabel: {{range: [0, 3], gain: {gain}, positive: 2}}\n"
        "features:\n  - {name: like_rate, of: item, kind: statistic}\n"
    )
    prepare("impressions", "--log", tmp_path / "log.csv", "--schema", tmp_path / "schema.yaml",
            "--split", "last-list", "--out", tmp_path / "data")  # fmt: skip

    def by_id(_url, bodies):
        for body in bodies:
            ids = [candidate["id"] for candidate in body["candidates"]]
            yield np.argsort(ids, kind="stable")[:LENGTH].tolist()

    def rank(lists):
        orders = (np.argsort(one.request.ids, kind="stable") for one in lists)
        return [(order[:LENGTH].tolist(), 0) for order in orders]

    monkeypatch.setattr("model.study.caller._rerank", by_id)
    data = Dataset(tmp_path / "data")
    measured = measure(Log(None, tmp_path / "data"), "http://localhost")
    printed = evaluate(in_place_of_a_session(data.featuriser), tmp_path / "data", rank=rank)
    assert measured["graded lists"] == printed["graded lists"]
    assert measured["lists"] == printed["lists"] < printed["graded lists"]
    for name in ("ndcg@10", "graded ndcg@10"):
        assert measured[name] == pytest.approx(printed[name][0], abs=1e-4)


def test_a_log_that_is_no_parquet_or_has_fractions_as_ids_is_refused(rated, tmp_path):
    with pytest.raises(ValueError, match=r"log.csv: must be Parquet; leave --log out"):
        measure(Log(rated / "log.csv", rated / "data"), "http://localhost")
    frame = pl.read_parquet(rated / "log.parquet").with_columns(pl.col("item_id") + 0.5)
    frame.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=r"column item_id: must be text or whole numbers"):
        measure(Log(tmp_path / "log.parquet", rated / "data"), "http://localhost")


def test_the_detail_of_a_refusal_is_in_the_error(rated, monkeypatch):
    def refuse(*_arguments, **_options):
        problem = io.BytesIO(json.dumps({"detail": "requests.0.user: must be an object"}).encode())
        raise urllib.error.HTTPError("", 422, "Unprocessable Entity", Message(), problem)

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(OSError, match=r"HTTP Error 422: .*requests.0.user: must be an object"):
        http_ranker("http://localhost")([])
    with pytest.raises(OSError, match=r"HTTP Error 422: .*: requests.0.user: must be an object"):
        measure(Log(None, rated / "data"), "http://localhost")
