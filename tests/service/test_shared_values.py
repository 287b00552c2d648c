"""Values shared by processes read as those of one process, and outlive the processes."""

import math
import re

import pytest
from prometheus_client import values

from service.metric_families import SECONDS
from service.metrics import STAGES, Metrics
from service.shared_values import FIRST, SLOT_BYTES, Cell, SharedValues, Slot, value_key


@pytest.fixture(autouse=True)
def restored():
    """Leave the class of values as it was, for the metrics of other tests."""
    before = values.ValueClass
    yield
    values.ValueClass = before


def use(metrics):
    metrics.requests.labels("a", "1", "active", "ok").inc(3)
    metrics.duration.observe(0.004)
    metrics.duration.observe(7.0)
    metrics.stages["queue"].observe(0.2)
    metrics.steps.observe(3)
    metrics.queue_depth.set(5)
    metrics.budget_level.set(2)
    metrics.model_info.labels("a", "1", "cpu").set(1)


def samples(metrics):
    """Return the page's samples without those of the processes."""
    lines = metrics.page().decode().splitlines()
    return {line for line in lines if line.startswith("rerank_")}


def test_one_process_among_several_has_the_samples_of_a_single_one():
    shared = SharedValues.create(workers=1)
    alone, among = Metrics(), Metrics(shared, 1)
    use(among)
    values.ValueClass = values.MutexValue
    use(alone)
    assert samples(among) == samples(alone)


def test_counts_add_up_and_each_gauge_is_combined_by_its_mode():
    shared = SharedValues.create(workers=2)
    first = Metrics(shared, 1)
    use(first)
    second = Metrics(shared, 2)
    use(second)
    second.budget_level.set(1)
    page = second.page().decode()
    for line in (
        'rerank_requests_total{model="a",outcome="ok",variant="active",version="1"} 6.0',
        'rerank_request_duration_seconds_bucket{le="0.005"} 2.0',
        'rerank_request_duration_seconds_bucket{le="+Inf"} 4.0',
        "rerank_request_duration_seconds_count 4.0",
        "rerank_request_duration_seconds_sum 14.008",
        "rerank_queue_depth 10.0",
        "rerank_budget_level 1.0",
        'rerank_model_info{name="a",provider="cpu",version="1"} 1.0',
    ):
        assert line in page


def test_a_replacement_continues_the_counts_and_begins_its_gauges_anew():
    shared = SharedValues.create(workers=1)
    supervisor = Metrics(shared, 0)
    use(Metrics(shared, 1))
    shared.slots[1].close()
    page = supervisor.page().decode()
    assert "rerank_queue_depth 0.0" in page
    assert "rerank_budget_level +Inf" in page
    assert "rerank_model_info{" not in page
    assert "rerank_reasoning_steps_count 1.0" in page
    replacement = Metrics(shared, 1)
    replacement.steps.observe(3)
    page = supervisor.page().decode()
    assert "rerank_reasoning_steps_count 2.0" in page
    assert "rerank_queue_depth 0.0" in page


def fill(metrics, caplog):
    """Add labels until the slot of the metrics has no room for one more."""
    for number in range(40_000):
        metrics.changes.labels("n" * 64, str(number)).inc()
        if caplog.records:
            return
    raise AssertionError("the slot is not full")


def test_a_full_slot_leaves_further_values_out_and_logs_one_line(caplog):
    shared = SharedValues.create(workers=1)
    metrics = Metrics(shared, 1)
    fill(metrics, caplog)
    metrics.changes.labels("n" * 64, "one more").inc()
    metrics.model_info.labels("one more", "1", "cpu").set(1)
    metrics.steps.observe(1)
    page = metrics.page().decode()
    assert "one more" not in page
    assert "rerank_reasoning_steps_count 1.0" in page
    assert len(re.findall("^rerank_model_changes_total", page, re.MULTILINE)) > 10_000
    (record,) = caplog.records
    assert "no room for rerank_model_changes_total" in record.getMessage()


def test_lists_of_a_further_version_are_counted_by_other_metrics_when_the_slot_is_full(caplog):
    shared = SharedValues.create(workers=1)
    metrics = Metrics(shared, 1)
    metrics.hot.count_request("a", "1", "active", "ok")
    fill(metrics, caplog)
    for version in ("1", "2"):
        metrics.hot.count_request("a", version, "active", "ok")
        metrics.hot.observe_list([0.0] * len(STAGES), 0.0, 3, 50)
    page = metrics.page().decode()
    counts = re.findall(r"^rerank_requests_total{.*} (\S+)$", page, re.MULTILINE)
    assert counts == ["2.0"]
    assert "rerank_list_size_count 2.0" in page


def test_a_worker_starts_in_a_slot_that_its_predecessor_has_filled(caplog):
    shared = SharedValues.create(workers=1)
    fill(Metrics(shared, 1), caplog)
    shared.slots[1].close()
    replacement = Metrics(shared, 1)
    replacement.hot.observe_list([0.0] * len(STAGES), 0.0, 3, 50)
    replacement.hot.count_request("a", "2", "active", "ok")
    assert "rerank_list_size_count 1.0" in replacement.page().decode()
    assert len(caplog.records) == 2  # a line of each process


def test_a_slot_returns_its_values_by_key_in_the_order_of_their_addition():
    slot = Slot(memoryview(bytearray(SLOT_BYTES)))
    slot.open()
    gauge = '["gauge", "livesum", "é", "é", {}, "text"]'
    counter = '["counter", "", "c", "c_total", {}, "text"]'
    at = slot.index(gauge)
    assert at is not None
    assert at > FIRST
    slot.values[at] = 1.5
    second = slot.index(counter)
    assert second is not None
    slot.values[second] = 2.5
    assert slot.index(gauge) == at
    assert list(slot.samples()) == [(gauge, 1.5), (counter, 2.5)]
    slot.close()
    assert list(slot.samples()) == [(counter, 2.5)]
    assert math.isnan(slot.values[at])
    assert (slot.pid, slot.beats) == (0, 0)


AMOUNTS = [0.0, *SECONDS, *(bound * 1.0001 for bound in SECONDS), 1e6]


@pytest.mark.parametrize("workers", [0, 1])
def test_values_that_the_event_loop_writes_are_those_of_the_metrics(workers):
    quick, usual = (Metrics(SharedValues.create(1), 1) if workers else Metrics() for _ in range(2))
    for number, amount in enumerate(AMOUNTS):
        stages = [amount + stage for stage in range(len(STAGES))]
        quick.hot.observe_list(stages, amount, number, number)
        for stage, seconds in zip(STAGES, stages, strict=True):
            usual.stages[stage].observe(seconds)
        usual.duration.observe(amount)
        usual.steps.observe(number)
        usual.list_size.observe(number)
    for outcome in ("ok", "ok", "degraded"):
        quick.hot.count_request("a", "1", "active", outcome)
        usual.requests.labels("a", "1", "active", outcome).inc()
    quick.hot.inflight.add(2.0)
    usual.inflight.inc(2.0)
    quick.hot.budget_level.set(3)
    usual.budget_level.set(3)
    quick.count_history_lookup(True)
    usual.histories.labels("hit").inc()
    assert samples(quick) == samples(usual)
    quick.hot.inflight.add(1.0)
    assert samples(quick) != samples(usual)


def test_a_value_without_room_is_kept_by_its_process_alone(caplog):
    slot = Slot(memoryview(bytearray(64)))
    cell = Cell(slot, value_key("gauge", "rerank_inflight", "rerank_inflight", {}, "text"))
    cell.add(1.0)
    assert list(slot.samples()) == []
    assert "rerank_inflight" in caplog.text
