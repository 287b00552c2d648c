"""The rules pass promtool, and each panel's query has data in a real Prometheus."""

import json
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client import ProcessCollector

from loadtest.server import serving
from service.state.engine import Key, Value, now_ms
from service.state.entities import Answers, Item, User
from service.state.lmdb_engine import LmdbEngine
from tests.support.bundles import BUNDLE

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/rerank.json").read_text("utf-8"))

needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs the package prometheus (.ci/setup)"
)


def queries():
    """Yield (panel, query) of the dashboard with Grafana's variables filled in."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$__rate_interval", "30s").replace("$instance", ".*")
            yield panel["title"], query


@needs_prometheus
@pytest.mark.parametrize("name", ["rules", "jobs"])
@pytest.mark.parametrize(
    "command", [["check", "rules", "{}.yml"], ["test", "rules", "{}_test.yml"]]
)
def test_promtool_accepts_the_rules_and_their_tests(command, name):
    words = [word.format(name) for word in command]
    run = subprocess.run(["promtool", *words], cwd=PROMETHEUS, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_prometheus
@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("rules", 'outcome=~"degraded|error"', 'outcome="error"'),
        ("jobs", "> 3 * 86400", "> 4 * 86400"),
    ],
)
def test_a_wrong_rule_fails_its_test(tmp_path, name, right, wrong):
    for file in (f"{name}.yml", f"{name}_test.yml"):
        text = (PROMETHEUS / file).read_text("utf-8")
        (tmp_path / file).write_text(text.replace(right, wrong))
    run = subprocess.run(
        ["promtool", "test", "rules", f"{name}_test.yml"], cwd=tmp_path, capture_output=True
    )
    assert run.returncode != 0


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """Yield the URL of a Prometheus with this configuration that has scraped a busy service."""
    home = tmp_path_factory.mktemp("prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    engine = LmdbEngine(home / "state")
    user = User({}, Answers(["1"], [1.0], [None], [None]), updated_at=now_ms())
    item = Item({"runtime": 1e9, "unknown": 1}, updated_at=now_ms())
    engine.put_many(
        [(Key("user", "u1"), Value(user.to_blob())), (Key("item", "1"), Value(item.to_blob()))]
    )
    engine.close()
    with serving(BUNDLE, timeout_ms=60_000, state=f"lmdb://{home}/state") as server:
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
        config["global"] = {"scrape_interval": "400ms", "evaluation_interval": "400ms"}
        (job,) = config["scrape_configs"]
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [server.url.removeprefix("http://")]}]
        (home / "prometheus.yml").write_text(yaml.safe_dump(config))
        shutil.copy(PROMETHEUS / "rules.yml", home)
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                ["prometheus", f"--config.file={home}/prometheus.yml",
                 f"--storage.tsdb.path={home}/data", f"--web.listen-address=127.0.0.1:{port}"],
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            with httpx.Client(base_url=server.url) as client:
                for turn in range(12):  # several scrapes, each with higher counters
                    for size in (10, 30):
                        body: dict[str, object] = {
                            "user": {"id": f"u{size // 10}"},
                            "candidates": [str(i) for i in range(1, size + 1)],
                        }
                        client.post("/rerank", json=body).raise_for_status()
                        event = {"event_id": f"{turn}-{size}", "user": "u1", "item": "1",
                                 "type": "like"}  # fmt: skip
                        events = {"events": [event, {**event, "type": "unknown"}]}
                        client.post("/feedback", json=events).raise_for_status()
                        body["diversity"] = {"by": "genres"}
                        client.post("/rerank", json=body).raise_for_status()
                    assert client.post("/rerank", json={}).status_code == 422
                    time.sleep(0.5)
            assert process.poll() is None, (home / "log").read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def query_result(prometheus, query):
    response = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}).json()
    assert response["status"] == "success", response
    return response["data"]["result"]


@needs_prometheus
def test_every_panel_of_the_dashboard_has_data(prometheus):
    empty = [(title, query) for title, query in queries() if not query_result(prometheus, query)]
    assert empty == []
    assert query_result(prometheus, "rerank_no_such_metric") == []  # emptiness is detected


@needs_prometheus
def test_the_service_is_scraped_and_the_ratios_are_recorded(prometheus):
    assert [sample["value"][1] for sample in query_result(prometheus, 'up{job="rerank"}')] == ["1"]
    ((slow,),) = [[s["value"][1] for s in query_result(prometheus, "rerank:slow:ratio_rate5m")]]
    assert 0 <= float(slow) <= 1


def metrics_in(text):
    """Return the metrics in queries, without the suffixes of samples."""
    names = re.findall(r"\b(?:rerank|process)_[a-z_]+|\bup(?={)", text)
    return {re.sub("_(total|bucket|sum|count)$", "", name) for name in names}


def rules_by(kind):
    """Return the queries of the rules by name; kind: "alert" or "record"."""
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text("utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return {rule[kind]: rule["expr"] for rule in rules if kind in rule}


def test_every_metric_of_rules_and_dashboard_is_one_of_the_service():
    files = (ROOT / "service").glob("*metrics.py")
    source = " ".join(path.read_text("utf-8") for path in files)
    metrics = {"up", *re.findall(r'"(rerank_[a-z_]+)"', source)}
    metrics |= {metric.name for metric in ProcessCollector(registry=None).collect()}
    rules = [*rules_by("alert").values(), *rules_by("record").values()]
    assert metrics_in(" ".join([*rules, *(query for _, query in queries())])) <= metrics


def test_every_metric_with_an_alert_has_a_panel():
    recorded, panels = rules_by("record"), " ".join(query for _, query in queries())
    for alert, query in rules_by("alert").items():
        sources = " ".join(recorded[name] for name in recorded if name in query)
        metrics = metrics_in(f"{query} {sources}")
        assert metrics
        assert metrics - metrics_in(panels) == set(), alert


def test_processes_that_fail_lose_something_or_grow_are_on_the_dashboard():
    assert metrics_in(" ".join(query for _, query in queries())) >= {
        "rerank_workers", "rerank_worker_start_failures", "rerank_log_lines_dropped",
        "rerank_file_descriptors_exhausted", "process_resident_memory_bytes", "process_open_fds",
        "process_max_fds",
    }  # fmt: skip


def test_the_condition_of_the_entity_store_is_on_the_dashboard():
    assert metrics_in(" ".join(query for _, query in queries())) >= {
        "rerank_state_up", "rerank_state_configured", "rerank_state_volatile",
        "rerank_state_lookups", "rerank_state_duration_seconds", "rerank_state_age_seconds",
        "rerank_state_size_bytes", "rerank_state_limit_bytes", "rerank_state_entities",
        "rerank_state_read_bytes", "rerank_feedback_events", "rerank_feedback_waiting",
        "rerank_feedback_commit_duration_seconds", "rerank_feedback_commit_events",
        "rerank_state_item_lookups", "rerank_state_item_age_seconds",
        "rerank_state_clipped_values", "rerank_state_ignored_values",
    }  # fmt: skip


def test_every_alert_has_a_section_in_the_operators_page():
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    anchors = {
        re.sub("[^a-z0-9 -]", "", line.lstrip("# ").lower()).strip().replace(" ", "-")
        for line in page.splitlines()
        if line.startswith("#")
    }
    rules = yaml.safe_load((PROMETHEUS / "rules.yml").read_text("utf-8"))
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    assert len(alerts) > 10
    for rule in alerts:
        assert rule["annotations"]["runbook"].partition("#")[2] in anchors, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
