"""Health, info, OpenAPI and metrics endpoints."""

import dataclasses
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from model.data.log_splits import to_iso
from service.http.responses import age_of
from service.http.schemas import EXAMPLE, RerankRequest
from tests.support.bodies import body
from tests.support.bundles import BUNDLE
from tests.support.servers import fresh

# Ids, features and the rows of two networks, from the files of the committed bundle.
TABLE_BYTES = sum(
    path.stat().st_size for pattern in ("items.*", "*.rows.npy") for path in BUNDLE.glob(pattern)
)


def test_health_endpoints_report_a_live_and_ready_service(client):
    assert client.get("/livez").json() == {"status": "live"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.head("/readyz").status_code == 200


def test_info_has_the_offline_metrics_provider_and_features_of_the_bundle(client, session):
    info = client.get("/info").json()
    assert info["offline_metrics"] == session.manifest.offline_metrics
    assert info["as_of"] is None  # the bundle is older than its field
    assert info["item_table"] == {"items": 2520, "bytes": TABLE_BYTES, "age_s": None}
    assert info["metrics_of"] is None
    assert info["max_lists_per_call"] == 64
    assert info["gate"] == session.manifest.gate
    assert info["label"] == {"range": [0.0, 1.0], "gain": "binary", "positive": None}
    assert info["provider"] == "CPUExecutionProvider"
    genres = {"name": "genres", "of": "item", "kind": "categories", "required": False,
              "width": 5}  # fmt: skip
    assert genres in info["features"]


def test_info_and_metrics_name_the_backend_and_its_reason(client, session):
    name, reason, detail = dataclasses.astuple(session.backend)
    assert name in ("onnx", "native")
    assert client.get("/info").json()["backend"] == {"name": name, "detail": detail}
    labels = f'backend="{name}",name="ranklens",reason="{reason}",version="1"'
    assert f"rerank_backend_info{{{labels}}} 1.0" in client.get("/metrics").text


def test_the_age_of_an_item_table_is_that_of_its_moment():
    assert age_of(None) is None
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    assert age_of(hour_ago.isoformat()) == pytest.approx(3600, abs=5)
    assert (age_of("2001-09-09T01:46:40.000Z") or 0) > 7e8


@pytest.mark.parametrize("moment", [1_705_449_024_000_000, -62_135_647_200_000])
def test_an_item_table_of_a_moment_that_no_calendar_reaches_has_no_age(moment):
    assert age_of(to_iso(moment)) is None


def test_the_examples_of_the_openapi_document_are_accepted(client):
    document = client.get("/openapi.json").json()
    for path in ("/rerank", "/v1/rerank", "/rerank/batch", "/v1/rerank/batch"):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        response = client.post(path, json=content["example"])
        assert response.status_code == 200, response.text
    RerankRequest.model_validate(EXAMPLE)


def test_unknown_candidates_are_counted(session, items):
    with fresh(session) as url, httpx.Client(base_url=url) as http:
        payload = {"candidates": [{"id": i} for i in ("new-1", items[0], "new-2")]}
        assert http.post("/rerank", json=payload).json()["unknown_candidates"] == 2
        assert "rerank_unknown_candidates_total 2.0" in http.get("/metrics").text


def test_metrics_count_every_request_once(session, items):
    with fresh(session) as url, httpx.Client(base_url=url) as http:
        for _ in range(7):
            http.post("/rerank", json=body(items))
        http.post("/rerank/batch", json={"requests": [body(items)] * 3})
        http.post("/rerank", json={})
        text = http.get("/metrics").text
    name = 'rerank_requests_total{model="ranklens",outcome="%s",variant="active",version="1"} %s'
    assert name % ("ok", "10.0") in text
    assert name % ("client_error", "1.0") in text
    assert "rerank_request_duration_seconds_count 10.0" in text
    assert 'rerank_stage_duration_seconds_count{stage="queue"} 10.0' in text
