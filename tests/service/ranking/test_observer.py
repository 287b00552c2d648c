"""The metrics of decisions and refused calls."""

import dataclasses

import pytest

from service.engine.features.candidates import CandidateList
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.ranking.decision import Decision, Timeline
from service.ranking.observer import Observer
from service.settings import Settings

MODEL = 'model="ranklens",outcome="{}",variant="active",version="1"'


@pytest.fixture
def decision(session, items):
    """A decision received at 10 s and featurised at 13 s, queued for 4 s and run for 8 s."""
    row = session.row(CandidateList(ids=items[:5]))
    (slate,) = session.run([row])
    return Decision(
        "r-1", "ranklens", "1", "active", items[:5], row, slate, (), row.budget, 7, 0, None,
        Timeline(10.0, 11.0, 13.0), 4.0, 8.0,
    )  # fmt: skip


@pytest.fixture
def observed(session):
    """An observer and a function that returns the value of a metric's line."""
    metrics = Metrics()
    observer = Observer(metrics, Fleet.of(session, Settings(), metrics))

    def value(line):
        lines = metrics.page().decode().splitlines()
        return next((float(li.rsplit(" ", 1)[1]) for li in lines if li.startswith(line)), None)

    return observer, value


def test_the_stages_of_a_decision_add_up_to_its_total(decision):
    times = decision.stage_times(now=26.0)
    assert (times.parse, times.features, times.queue, times.inference) == (1.0, 2.0, 4.0, 8.0)
    assert (times.respond, times.total) == (1.0, 16.0)
    assert times.state is None


def test_a_lookup_is_a_stage_of_its_own_that_the_metric_counts_as_features(decision, observed):
    decision.timeline.looked_up = 12.5
    times = decision.stage_times(now=26.0)
    assert (times.parse, times.state, times.features, times.queue) == (1.0, 1.5, 0.5, 4.0)
    assert (times.respond, times.total) == (1.0, 16.0)
    observer, value = observed
    observer.decided(decision, times)
    assert value('rerank_stage_duration_seconds_sum{stage="features"}') == 2


@pytest.mark.parametrize(
    ("degraded", "outcome"),
    [(None, "ok"), ("reduced_budget", "reduced_budget"), ("deadline", "degraded")],
)
def test_a_decision_is_counted_once_with_its_outcome_and_times(
    decision, observed, degraded, outcome
):
    observer, value = observed
    counted = dataclasses.replace(decision, degraded=degraded)
    observer.decided(counted, counted.stage_times(now=26.0))
    assert value(f"rerank_requests_total{{{MODEL.format(outcome)}}}") == 1
    assert value("rerank_request_duration_seconds_sum") == 16
    assert value('rerank_stage_duration_seconds_sum{stage="features"}') == 2
    assert value("rerank_reasoning_steps_sum") == 7
    assert value("rerank_list_size_sum") == 5
    reason = value(f'rerank_degraded_total{{reason="{degraded}"}}')
    assert reason == (None if degraded is None else 1)


@pytest.mark.parametrize(("server_error", "outcome"), [(True, "error"), (False, "client_error")])
def test_a_refused_call_is_counted_under_the_default_model(observed, server_error, outcome):
    observer, value = observed
    observer.call_refused(server_error)
    assert value(f"rerank_requests_total{{{MODEL.format(outcome)}}}") == 1
