"""Redis Streams over a real server, and Kafka over the broker that librdkafka itself ships."""

import contextlib
import time

import httpx
import ormsgpack
import pytest
from confluent_kafka import Consumer, Producer

from service.journal.address import FilesAddress, parse_journal_address
from service.journal.errors import SinkError
from service.journal.opening import open_sink
from service.journal.records import pack, record_of
from service.journal.redis_sink import FIELD
from service.settings import Settings
from tests.support.journals import decision, event
from tests.support.processes import poll, total
from tests.support.redis_servers import free_port, redis_server
from tests.support.servers import fresh

RECORDS = [decision(1, "u1"), event(2, "u1"), decision(3)]
PACKED = [pack(record) for record in RECORDS]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory):
    """A server of Redis's protocol."""
    with redis_server("valkey", tmp_path_factory.mktemp("valkey")) as server:
        yield server


def sink_of(address, **settings):
    return open_sink(parse_journal_address(address), Settings(**settings))


@contextlib.contextmanager
def kafka_broker():
    """Yield HOST:PORT of a broker in this process."""
    options = {"bootstrap.servers": "unused", "test.mock.num.brokers": 1, "log_level": 0}
    owner = Producer(options)
    (broker,) = owner.list_topics(timeout=10).brokers.values()
    yield f"{broker.host}:{broker.port}"
    owner.flush(1)


@pytest.fixture
def broker():
    """The address of a broker."""
    with kafka_broker() as address:
        yield address


def messages_of(broker, topic, count):
    """Return the values of the first messages of a topic."""
    consumer = Consumer(
        {"bootstrap.servers": broker, "group.id": "test", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    messages: list[bytes | None] = []
    deadline = time.monotonic() + 30
    while len(messages) < count and time.monotonic() < deadline:
        message = consumer.poll(1.0)
        if message is not None and not message.error():
            messages.append(message.value())
    consumer.close()
    return messages


def entries_of(server, stream="rerank:journal"):
    with server.client() as client:
        return [fields[FIELD.encode()] for _, fields in client.xrange(stream)]


def test_every_address_opens_its_sink(tmp_path):
    settings = Settings(journal=f"files://{tmp_path}")
    assert isinstance(settings.journal, FilesAddress)
    for address in (f"files://{tmp_path}", "redis://h/0", "kafka://h:1/topic"):
        sink = open_sink(parse_journal_address(address), settings)
        sink.idle()
        sink.close()


def test_each_record_is_an_entry_of_the_stream(valkey):
    sink = sink_of(f"redis://127.0.0.1:{valkey.port}/0")
    assert sink.write(PACKED) == sum(map(len, PACKED))
    sink.close()
    assert [record_of(ormsgpack.unpackb(entry)) for entry in entries_of(valkey)] == RECORDS


def test_old_entries_are_removed_as_new_ones_come(valkey):
    sink = sink_of(f"redis://127.0.0.1:{valkey.port}/0?prefix=old", journal_keep_days=0.05 / 86400)
    for _ in range(3):
        sink.write([b"x" * 1000] * 100)
    time.sleep(0.1)
    sink.write([b"y"])
    assert len(entries_of(valkey, "old:journal")) < 300  # whole nodes of the stream go
    sink.close()


def test_a_server_that_is_down_is_named_without_its_password():
    port = free_port()
    sink = sink_of(f"redis://:s3cret@127.0.0.1:{port}/0")
    with pytest.raises(SinkError, match=f"redis://127.0.0.1:{port}/0: ") as error:
        sink.write(PACKED)
    assert "s3cret" not in str(error.value)


def test_a_full_server_keeps_none_of_a_batch_and_takes_it_later(tmp_path):
    with redis_server("valkey", tmp_path) as server, server.client() as client:
        sink = sink_of(f"redis://127.0.0.1:{server.port}/0")
        client.config_set("maxmemory", 1)
        with pytest.raises(SinkError, match="maxmemory"):
            sink.write(PACKED)
        assert entries_of(server) == []
        client.config_set("maxmemory", 0)
        sink.write(PACKED)
        assert entries_of(server) == PACKED
        sink.close()


def test_each_record_is_a_message_of_the_topic(broker):
    sink = sink_of(f"kafka://{broker}/journal")
    assert sink.write(PACKED) == sum(map(len, PACKED))
    sink.idle()
    sink.close()
    messages = messages_of(broker, "journal", 3)
    assert sorted(messages) == sorted(PACKED)  # partitions have no common order


def test_a_lost_broker_is_an_error_and_what_it_acknowledged_is_not_sent_again(broker, monkeypatch):
    sink = sink_of(f"kafka://{broker}/journal")
    send, sent = sink._send, []

    def break_off(record, on_delivery):
        sent.append(record)
        if len(sent) == 3:  # the third gets lost on its way
            return
        send(record, on_delivery)

    monkeypatch.setattr(sink, "_send", break_off)
    with pytest.raises(SinkError, match="1 records not delivered"):
        sink.write(PACKED)
    assert sink.write(PACKED) == sum(map(len, PACKED))
    assert sent == [*PACKED, PACKED[2]]
    assert len(messages_of(broker, "journal", 3)) == 3
    sink.close()


def test_a_dead_broker_is_named(broker):
    address = f"kafka://127.0.0.1:{free_port()}/journal?message.timeout.ms=300"
    sink = sink_of(address)
    with pytest.raises(SinkError, match="3 records not delivered: "):
        sink.write(PACKED)
    sink.close()


def test_an_option_that_the_client_does_not_know_is_an_error():
    sink = sink_of("kafka://h:1/topic?wings=2")
    with pytest.raises(SinkError, match="wings"):
        sink.write(PACKED)
    sink.close()


@pytest.mark.parametrize("scheme", ["redis", "kafka"])
def test_a_dead_destination_costs_no_ranking(session, items, scheme):
    end = "0" if scheme == "redis" else "journal?message.timeout.ms=200"
    journal = f"{scheme}://127.0.0.1:{free_port()}/{end}"
    settings = {"journal": journal, "journal_flush_ms": 5, "journal_buffer_mb": 0.002}
    with fresh(session, **settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(10):
            answer = client.post("/rerank", json={"candidates": items[:9]}).json()
            assert answer["degraded"] is None
            assert len(answer["slate"]) == 9
        page = client.get("/metrics").text
        assert poll(
            lambda: total(client.get("/metrics").text, "rerank_journal_errors_total") > 0, 20
        )
    assert 'rerank_journal_records_total{result="written"} 0.0' in page
    assert total(page, "rerank_journal_records_total") > 3  # beyond the buffer


def test_a_destination_that_comes_back_gets_what_waited(session, items, tmp_path):
    with redis_server("valkey", tmp_path) as server:
        settings = {"journal": f"redis://127.0.0.1:{server.port}/0", "journal_flush_ms": 5}
        with fresh(session, **settings) as url, httpx.Client(base_url=url, timeout=60) as client:
            server.kill()
            for _ in range(5):
                client.post("/rerank", json={"candidates": items[:9]}).raise_for_status()
            server.start()
            assert poll(lambda: len(entries_of(server)) == 5, 30)
            name = "rerank_journal_records_total"
            assert poll(lambda: total(client.get("/metrics").text, name) == 5, 20)
