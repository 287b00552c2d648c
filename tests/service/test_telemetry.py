"""Structured logs, and spans built from the stage times of a response."""

import json
import random
import subprocess
import sys
import textwrap
from datetime import datetime
from types import SimpleNamespace

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from loadtest.server import serving
from service.metrics import STAGES
from service.settings import Settings
from service.telemetry import Tracer
from tests.support.bodies import body
from tests.support.bundles import BUNDLE, ROOT
from tests.support.servers import fresh

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
KEY = "a-key-of-the-shop-0123456789"


def python(script, *arguments):
    """Run a script in a new process and return its standard output and error."""
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return process.stdout, process.stderr


def lines_of(text):
    """Parse every line as a log record and check its common fields."""
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert isinstance(line["event"], str)
        assert line["level"] in ("debug", "info", "warning", "error", "critical")
        assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
        assert line["logger"]
    return lines


LOGGING = """
    import logging, sys, warnings
    import structlog, uvicorn
    from service.server import uvicorn_config
    from service.settings import Settings
    from service.telemetry import configure

    settings = Settings(log_format=sys.argv[1], log_level=sys.argv[2])
    configure(settings)
    uvicorn_config("nowhere:app", settings)
    logging.getLogger("service").info("two\\nlines, %s", "and \\u00e9", extra={"lists": 3})
    logging.getLogger("uvicorn.error").error("Exception in %s", "ASGI", exc_info=ValueError("bad"))
    try:
        secret = "bearer-of-a-" + "key"  # must not appear in the traceback
        {}["missing"]
    except KeyError:
        logging.getLogger("service").exception("unhandled error, request %s", "r-1")
    logging.getLogger("elsewhere").warning("odd", extra={"thing": object()})
    structlog.get_logger("service").warning("by structlog", lists=[1, 2])
    logging.getLogger("service").debug("only when asked for")
    print("handlers", len(logging.getLogger().handlers))
"""


def test_json_logs_are_one_object_per_line_from_every_logger():
    output, log = python(LOGGING, "json", "info")
    lines = lines_of(log)
    assert output == "handlers 1\n"
    assert [line["event"] for line in lines] == [
        "two\nlines, and \u00e9",
        "Exception in ASGI",
        "unhandled error, request r-1",
        "odd",
        "by structlog",
    ]
    assert [line["level"] for line in lines] == ["info", "error", "error", "warning", "warning"]
    assert lines[0]["lists"] == 3
    assert "ValueError: bad" in lines[1]["exception"]
    assert "Traceback" in lines[2]["exception"]
    assert "KeyError: 'missing'" in lines[2]["exception"]
    assert lines[1]["logger"] == "uvicorn.error"


def test_lower_levels_are_not_logged_and_the_console_format_is_no_json():
    _, log = python(LOGGING, "json", "debug")
    assert lines_of(log)[-1]["event"] == "only when asked for"
    _, log = python(LOGGING, "json", "error")
    assert [line["level"] for line in lines_of(log)] == ["error", "error"]
    _, log = python(LOGGING, "console", "info")
    assert "unhandled error, request r-1" in log
    assert "KeyError: 'missing'" in log
    assert "bearer-of-a-key" not in log
    with pytest.raises(ValueError, match="line 1 column"):  # no JSON
        lines_of(log)


def test_request_logs_have_ids_and_times_and_no_user_item_or_key(items, tmp_path):
    (tmp_path / "keys").write_text(f"shop:{KEY}\n")
    ids = random.Random(1).sample(items, 24)
    user = {"user": {"id": "user-of-the-shop", "history": ["history-item"]}}
    payload = {"candidates": [*ids, "candidate-item"], **user}
    settings = {"log_requests": True, "api_keys_file": tmp_path / "keys", "timeout_ms": 60_000}
    with serving(BUNDLE, **settings) as server, httpx.Client(
        base_url=server.url, timeout=30, headers={"Authorization": f"Bearer {KEY}"}
    ) as client:  # fmt: skip
        named = {"X-Request-ID": "by-header"}
        first = client.post("/rerank", json=payload, headers=named)
        client.post("/rerank", json={**payload, "request_id": "by-body"}, headers=named)
        client.post("/rerank/batch", json={"requests": [payload, payload]}, headers=named)
        client.post("/rerank", json={**payload, "slate_size": 0})
        server.process.terminate()
        server.process.wait()
        text = server.log.read_text()
    lines = [line for line in lines_of(text) if line["event"] == "answered"]
    assert [line["request_id"] for line in lines] == ["by-header", "by-body", "by-header"]
    assert [line["path"] for line in lines] == ["/rerank", "/rerank", "/rerank/batch"]
    assert [line["lists"] for line in lines] == [1, 1, 2]
    assert lines[0]["latency_ms"] == first.json()["latency_ms"]
    assert lines[0]["degraded"] == []
    for private in ("user-of-the-shop", "history-item", "candidate-item", KEY, "shop"):
        assert private not in text
    standard = {"event", "level", "logger", "timestamp"}
    assert set(lines[0]) == {*standard, "request_id", "path", "lists", "latency_ms", "degraded"}


@pytest.fixture
def spans():
    """A tracer and a function that returns its finished spans."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield SimpleNamespace(tracer=Tracer(provider), get_finished_spans=exporter.get_finished_spans)
    provider.shutdown()


LATENCY = {
    "total": 15.0, "parse": 1.0, "features": 2.0, "queue": 4.0, "inference": 7.5, "respond": 0.5
}  # fmt: skip


def test_the_span_of_a_call_is_a_child_of_its_traceparent_and_its_stages_add_up(spans):
    traceparent = f"00-{TRACE}-{PARENT}-01"
    returned = spans.tracer.record(traceparent, "POST /rerank", LATENCY, {"rerank.lists": 2})
    *stages, call = spans.get_finished_spans()
    assert (call.name, call.kind) == ("POST /rerank", SpanKind.SERVER)
    assert dict(call.attributes) == {"rerank.lists": 2}
    assert f"{call.context.trace_id:032x}" == TRACE
    assert f"{call.parent.span_id:016x}" == PARENT
    assert returned == f"00-{TRACE}-{call.context.span_id:016x}-01"
    assert [stage.name for stage in stages] == list(STAGES)
    assert call.end_time - call.start_time == 15_000_000
    at = call.start_time
    for stage in stages:
        assert stage.parent.span_id == call.context.span_id
        assert stage.start_time == at
        at = stage.end_time
        assert at - stage.start_time == 1e6 * LATENCY[stage.name]
    assert at == call.end_time


@pytest.mark.parametrize("traceparent", [None, "", "nonsense", f"00-{'0' * 32}-{PARENT}-01"])
def test_a_missing_or_invalid_traceparent_starts_a_new_trace(spans, traceparent):
    returned = spans.tracer.record(traceparent, "POST /rerank", LATENCY, {})
    call = spans.get_finished_spans()[-1]
    assert call.parent is None
    version, trace, span, flags = returned.split("-")
    assert version == "00"
    assert int(flags, 16) & 1  # sampled
    assert trace == f"{call.context.trace_id:032x}"
    assert span == f"{call.context.span_id:016x}"


def test_an_unsampled_trace_is_propagated_and_not_recorded(spans):
    returned = spans.tracer.record(f"00-{TRACE}-{PARENT}-00", "POST /rerank", LATENCY, {})
    assert spans.get_finished_spans() == ()
    assert returned.startswith(f"00-{TRACE}-")
    assert returned.endswith("-00")


def test_a_ranked_call_is_traced_and_returns_its_traceparent(session, items, spans, monkeypatch):
    monkeypatch.setattr(Tracer, "of", classmethod(lambda cls, settings: spans.tracer))
    monkeypatch.setattr(Tracer, "close", lambda self: None)
    traceparent = f"00-{TRACE}-{PARENT}-01"
    with fresh(session) as url, httpx.Client(base_url=url, timeout=30) as client:
        one = client.post("/rerank", json=body(items), headers={"traceparent": traceparent})
        lists = {"requests": [body(items, seed=seed) for seed in range(3)]}
        many = client.post("/v1/rerank/batch", json=lists)
        refused = client.post("/rerank", json={}, headers={"traceparent": traceparent})
    calls = [span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert [span.name for span in calls] == ["POST /rerank", "POST /v1/rerank/batch"]
    for span, response, count in zip(calls, (one, many), (1, 3), strict=True):
        assert dict(span.attributes) == {"rerank.lists": count, "rerank.model": "ranklens"}
        assert response.headers["traceparent"].split("-")[2] == f"{span.context.span_id:016x}"
    assert one.headers["traceparent"].split("-")[1] == TRACE
    total = 1e6 * one.json()["latency_ms"]["total"]
    spent = calls[0].end_time - calls[0].start_time
    assert spent == pytest.approx(total, abs=1)
    stages = [s for s in spans.get_finished_spans() if s.parent and s.parent == calls[0].context]
    assert len(stages) == len(STAGES)
    added = sum(stage.end_time - stage.start_time for stage in stages)
    assert added == pytest.approx(total, abs=5_000)  # five figures, each rounded to microseconds
    longest = max(stage.end_time - stage.start_time for stage in stages)
    assert added - longest != pytest.approx(total, abs=5_000)
    assert refused.status_code == 422
    assert refused.headers["traceparent"] == traceparent


IMPORTS = """
    import sys
    from pathlib import Path
    from service.server import application
    from service.settings import Settings

    application(Settings(bundle=Path("bundles/ranklens/1"), tracing=sys.argv[1]))
    # FastAPI imports opentelemetry.api, which exports nothing.
    ours = ("opentelemetry.sdk", "opentelemetry.exporter")
    print([name for name in ours if name in sys.modules])
"""


def test_with_tracing_off_no_opentelemetry_sdk_is_imported():
    assert python(IMPORTS, "off")[0] == "[]\n"
    assert python(IMPORTS, "otlp")[0] == "['opentelemetry.sdk', 'opentelemetry.exporter']\n"
    assert Tracer.of(Settings(tracing="off")) is None
