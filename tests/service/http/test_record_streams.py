"""Records in the parts of a body, however the body is cut."""

import contextlib
import tracemalloc

import ormsgpack
import pytest

from service.http.record_streams import Lines, Values
from service.state.errors import EntityError

NDJSON = b'{"item": "1"}\n\n \r\n{"item": "\xc3\xa9"}\n' + b"x" * 40 + b"\n5"
VALUES = [{"item": "1"}, 5, [[], {"a": b"\n"}], "x" * 40, None]
MSGPACK = b"".join(map(ormsgpack.packb, VALUES))


def records_of(splitter, parts):
    records = [record for part in parts for record in splitter.feed(part)]
    records += splitter.end()
    return [(number, content, error and str(error)) for number, content, error in records]


def cuts(body):
    """Yield the parts of a body that is cut at one byte, and those of single bytes."""
    for place in range(len(body) + 1):
        yield [body[:place], body[place:]]
    yield [body[place : place + 1] for place in range(len(body))]


def test_lines_are_the_same_however_the_body_is_cut():
    expected = [
        (1, b'{"item": "1"}', None),
        (4, b'{"item": "\xc3\xa9"}', None),
        (5, None, "line: at most 30 bytes, got '40 bytes'"),
        (6, b"5", None),
    ]
    for parts in cuts(NDJSON):
        assert records_of(Lines(30), parts) == expected


def test_values_are_the_same_however_the_body_is_cut():
    for parts in cuts(MSGPACK):
        records = records_of(Values(45), parts)
        assert [ormsgpack.unpackb(content) for _, content, _ in records] == VALUES
        assert [number for number, _, _ in records] == [1, 2, 3, 4, 5]
        assert {error for _, _, error in records} == {None}


def test_a_value_over_the_limit_is_an_error_of_its_own():
    errors = [error for _, _, error in records_of(Values(41), [MSGPACK])]
    assert errors == [None, None, None, "record: at most 41 bytes, got '42 bytes'", None]


def test_a_body_that_ends_within_a_value_is_refused_behind_those_before():
    splitter = Values(100)
    assert len(list(splitter.feed(MSGPACK + b"\xa5abc"))) == len(VALUES)
    with pytest.raises(EntityError, match="record 6: complete, got '4 bytes'"):
        list(splitter.end())


@pytest.mark.parametrize("start", [b"x", b"\xdb\x7f\xff\xff\xff"])
def test_a_record_that_never_ends_is_not_kept(start):
    """64 MiB of one record, of which a splitter may keep 2 MiB."""
    splitter = Lines(2 << 20) if start == b"x" else Values(2 << 20)
    parts = [start, *[bytes(1 << 20)] * 64]
    tracemalloc.start()
    try:
        with contextlib.suppress(EntityError):
            records_of(splitter, parts)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", [b"xxx", b'{"item": "f2"}\n', b"\n[]"])
def test_text_that_is_sent_as_messagepack_is_refused_once(text):
    rule = "record 1: MessagePack; send text as application/x-ndjson"
    for parts in ([text], [b"", text[:1], text[1:]]):
        with pytest.raises(EntityError, match=rule):
            records_of(Values(45), parts)
    assert len(records_of(Values(45), [MSGPACK[:1], MSGPACK[1:]])) == len(VALUES)
