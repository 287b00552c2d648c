"""The buffer and its writer: bounded, never in the way, and honest about drops."""

import asyncio
import threading

import pytest

from service.journal.errors import SinkError
from service.journal.journal import BufferLimits, Journal
from service.journal.records import pack
from service.metrics import Metrics
from service.settings import Settings
from tests.support.journals import event
from tests.support.processes import poll, total

SIZE = len(pack(event(10)))


class ScriptedSink:
    """Keeps records in memory, and fails or waits on demand."""

    def __init__(self):
        self.records, self.fails, self.closed = [], False, False
        self.may_write = threading.Event()
        self.may_write.set()

    def write(self, records):
        self.may_write.wait()
        if self.fails:
            raise SinkError("no space left")
        self.records += records
        return 7

    def idle(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def sink():
    return ScriptedSink()


@pytest.fixture
def metrics():
    return Metrics()


def journal_of(sink, metrics, records=1000, flush=1000, flush_s=0.005):
    return Journal(sink, BufferLimits(records * SIZE, flush * SIZE, flush_s), metrics)


def counted(metrics, result):
    """Return the records of one result."""
    lines = metrics.page().decode().splitlines()
    start = f'rerank_journal_records_total{{result="{result}"}} '
    return next(float(line.removeprefix(start)) for line in lines if line.startswith(start))


def close(journal):
    asyncio.run(journal.close())


def test_records_reach_the_sink_in_order_and_are_counted(sink, metrics):
    journal = journal_of(sink, metrics)
    journal.start()
    for number in range(50):
        journal.add(event(number))
    assert poll(lambda: counted(metrics, "written") == 50, 20)
    close(journal)
    assert sink.records == [pack(event(number)) for number in range(50)]
    assert sink.closed
    assert counted(metrics, "dropped") == 0
    assert total(metrics.page().decode(), "rerank_journal_written_bytes_total") % 7 == 0


def test_a_shutdown_flushes_what_waits(sink, metrics):
    journal = journal_of(sink, metrics, flush_s=3600)
    journal.start()
    for number in range(10):
        journal.add(event(number))
    close(journal)
    assert len(sink.records) == counted(metrics, "written") == 10


def test_a_full_batch_is_flushed_before_its_time(sink, metrics):
    journal = journal_of(sink, metrics, flush=10, flush_s=3600)
    journal.start()
    for number in range(10, 19):
        journal.add(event(number))
    assert not poll(lambda: sink.records, 0.2)
    journal.add(event(19))
    assert poll(lambda: len(sink.records) == 10, 20)
    close(journal)


def test_a_slow_sink_costs_only_what_the_buffer_cannot_hold(sink, metrics):
    sink.may_write.clear()
    journal = journal_of(sink, metrics, records=20)
    journal.start()
    for number in range(10, 60):
        journal.add(event(number))
    assert counted(metrics, "dropped") == 30
    sink.may_write.set()
    assert poll(lambda: counted(metrics, "written") == 20, 20)
    journal.add(event(99))
    close(journal)
    assert len(sink.records) == counted(metrics, "written") == 21


def test_a_sink_that_failed_gets_the_same_records_again(sink, metrics, caplog):
    caplog.set_level("INFO", "service")
    sink.fails = True
    journal = journal_of(sink, metrics)
    journal.start()
    for number in range(5):
        journal.add(event(number))
    assert poll(lambda: total(metrics.page().decode(), "rerank_journal_errors_total"), 20)
    assert sink.records == []
    sink.fails = False
    assert poll(lambda: counted(metrics, "written") == 5, 20)
    close(journal)
    assert sink.records == [pack(event(number)) for number in range(5)]
    assert counted(metrics, "dropped") == 0
    assert "journal: no space left; " in caplog.text
    assert "the sink works again" in caplog.text


def test_records_that_a_dead_sink_never_took_count_as_dropped_at_the_end(sink, metrics, caplog):
    sink.fails = True
    journal = journal_of(sink, metrics)
    journal.start()
    for number in range(5):
        journal.add(event(number))
    close(journal)
    assert counted(metrics, "dropped") == 5
    assert "5 records were not written before the shutdown" in caplog.text


def test_drops_are_logged_once_a_minute(sink, metrics, caplog):
    now = [0.0]
    sink.may_write.clear()
    journal = Journal(sink, BufferLimits(SIZE, 1e9, 0.005), metrics, lambda: now[0])
    for number in range(10, 15):
        journal.add(event(number))
    for second in (0.0, 30.0, 59.0, 61.0, 90.0):
        now[0] = second
        journal.add(event())
        journal._report()
    reports = [record.getMessage() for record in caplog.records]
    assert [line.split(" records")[0] for line in reports] == ["journal: 5", "journal: 3"]


def test_a_record_that_cannot_be_packed_is_dropped_alone(sink, metrics, caplog):
    journal = journal_of(sink, metrics)
    journal.start()
    journal.add(event(value=1 << 70))
    journal.add(event(1))
    close(journal)
    assert sink.records == [pack(event(1))]
    assert counted(metrics, "dropped") == 1
    assert "journal: a record of kind event was dropped" in caplog.text


def test_exploration_without_a_journal_is_warned_about(metrics, caplog):
    assert Journal.of(Settings(), metrics) is None
    assert caplog.text == ""
    assert Journal.of(Settings(explore_share=0.1), metrics) is None
    assert "no RERANK_JOURNAL records it" in caplog.text


def test_ids_of_records_differ_between_journals(sink, metrics):
    one, other = journal_of(sink, metrics), journal_of(sink, metrics)
    assert len({journal.next_id() for journal in (one, other) for _ in range(100)}) == 200
