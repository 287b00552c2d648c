"""LMDB: files, sizes, other processes, kills and erasure."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from service.engine.features.recent_items import RecentItems
from service.state.engine import Key, Value
from service.state.errors import StateFull, StateUnavailable
from service.state.lmdb_engine import LmdbEngine

ROOT = Path(__file__).parents[3]
USER = Key("user", "u1")
# Counts up one entity, and prints each number once it is kept.
WRITER = """
    import sys
    from pathlib import Path
    from service.state.engine import Key, Value
    from service.state.lmdb_engine import LmdbEngine

    engine = LmdbEngine(Path(sys.argv[1]))
    for number in range(10**9):
        engine.put_many([(Key("user", f"u{number}"), Value(b"x" * 300))])
        print(number, flush=True)
"""


def writer(directory):
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(directory)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_the_files_are_readable_by_their_owner_alone(tmp_path):
    engine = LmdbEngine(tmp_path / "a" / "state")
    engine.put_many([(USER, Value(b"1"))])
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "a").rglob("*")}
    engine.close()
    assert modes == {"state": 0o700, "data.mdb": 0o600, "lock.mdb": 0o600, "use.lock": 0o600}


def test_entities_are_there_after_a_restart(tmp_path):
    first = LmdbEngine(tmp_path)
    first.put_many([(USER, Value(b"1"))])
    first.close()
    second = LmdbEngine(tmp_path)
    assert second.get_many([USER]) == [b"1"]
    second.close()


def test_a_full_store_refuses_the_write_and_goes_on(tmp_path):
    engine = LmdbEngine(tmp_path, max_bytes=1 << 20)
    engine.put_many([(USER, Value(b"1"))])
    with pytest.raises(StateFull, match="raise RERANK_STATE_MAX_GB"):
        engine.put_many([(Key("user", f"n{i}"), Value(bytes(10_000))) for i in range(200)])
    assert engine.get_many([USER, Key("user", "n0")]) == [b"1", None]
    engine.put_many([(USER, Value(b"2"))])
    assert engine.get_many([USER]) == [b"2"]
    engine.close()


def test_the_limit_is_the_largest_size_or_what_the_disk_holds(tmp_path):
    engine = LmdbEngine(tmp_path, max_bytes=1 << 20)
    health = engine.health()
    assert health.bytes is not None
    assert (health.limit, health.notes) == (1 << 20, [])
    engine.put_many([(Key("user", f"n{i}"), Value(bytes(3000))) for i in range(240)])
    assert "of at most 1048576 bytes" in engine.health().notes[0]
    engine.close()
    beyond = LmdbEngine(tmp_path, max_bytes=1 << 45)
    limit = beyond.health().limit
    beyond.close()
    assert limit is not None
    assert health.bytes < limit < 1 << 45


def test_a_file_that_was_cut_off_is_refused(tmp_path):
    engine = LmdbEngine(tmp_path)
    engine.put_many([(Key("user", f"u{i}"), Value(bytes(3000))) for i in range(50)])
    engine.close()
    data = tmp_path / "data.mdb"
    os.truncate(data, data.stat().st_size // 2)
    with pytest.raises(StateUnavailable, match=r"data\.mdb: has \d+ bytes of \d+"):
        LmdbEngine(tmp_path)


@pytest.mark.parametrize("content", [b"no database", b"\0" * 8192, os.urandom(8192)])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(StateUnavailable, match=str(tmp_path)):
        LmdbEngine(tmp_path)


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateUnavailable, match="cannot be opened"):
        LmdbEngine(tmp_path / "file" / "state")


def test_a_value_without_room_for_its_expiry_is_absent(tmp_path):
    engine = LmdbEngine(tmp_path)
    with engine._environment.begin(write=True) as transaction:
        transaction.put(b"u1", b"short", db=engine._databases["user"])
    assert engine.get_many([USER]) == [None]
    assert list(engine.scan("user")) == []
    engine.close()


def test_an_entity_expires_when_the_clock_reaches_its_time(tmp_path):
    now = [1000]
    engine = LmdbEngine(tmp_path, clock=lambda: now[0])
    engine.put_many([(USER, Value(b"1", expires_at=2000))])
    assert engine.get_many([USER]) == [b"1"]
    now[0] = 2000
    assert engine.get_many([USER]) == [None]
    assert engine.delete([USER]) == 0
    engine.close()


def test_a_write_of_another_process_is_visible_at_once(tmp_path):
    engine = LmdbEngine(tmp_path)
    process = writer(tmp_path)
    try:
        for _ in range(20):
            number = process.stdout.readline().strip()
            assert engine.get_many([Key("user", f"u{number}")]) != [None]
    finally:
        process.kill()
        process.communicate()
    engine.close()


def test_every_acknowledged_write_outlives_kills(tmp_path):
    for lines in (1, 7, 23):
        process = writer(tmp_path)
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        kept = lines + output.count("\n")
        engine = LmdbEngine(tmp_path)
        blobs = engine.get_many([Key("user", f"u{number}") for number in range(kept)])
        engine.put_many([(USER, Value(b"x" * 300))])  # the lock of the killed writer is free
        engine.close()
        assert set(blobs) == {b"x" * 300}


def test_a_compaction_waits_until_no_other_process_uses_the_store(tmp_path):
    engine = LmdbEngine(tmp_path)
    process = writer(tmp_path)
    try:
        process.stdout.readline()
        with pytest.raises(StateUnavailable, match="another process uses the store"):
            engine.compact()
    finally:
        process.kill()
        process.communicate()
    engine.compact()
    assert engine.get_many([Key("user", "u0")]) == [b"x" * 300]
    engine.close()


def test_no_byte_of_a_deleted_or_expired_user_is_left_after_a_compaction(tmp_path):
    now = [1000]
    engine = LmdbEngine(tmp_path, clock=lambda: now[0])
    secrets = [f"secret-{number}" for number in range(300)]
    for item in secrets:
        engine.put_many(
            [
                (Key("user", item), Value(f"blob of {item}".encode() * 9)),
                (Key("user", f"kept-{item[7:]}"), Value(b"kept" * 9)),
            ]
        )
    engine.put_many([(Key("item", "secret-late"), Value(b"1", expires_at=2000))])
    now[0] = 3000
    engine.delete([Key("user", item) for item in secrets])
    assert b"secret-" in (tmp_path / "data.mdb").read_bytes()
    engine.compact()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in files if b"secret-" in path.read_bytes()] == []
    assert engine.get_many([Key("user", "kept-7")]) == [b"kept" * 9]
    engine.close()


def read(engine, recent, ids):
    handles = recent.find(ids)
    engine.read([], ids, handles, recent)
    return recent.blobs(handles)


def test_a_lookup_reads_what_another_process_has_written(tmp_path):
    engine, recent = LmdbEngine(tmp_path), RecentItems()
    engine.put_many([(Key("item", "i1"), Value(b"1")), (Key("item", "i2"), Value(b"22"))])
    assert read(engine, recent, ["i1", "i2", "i3"]) == [b"1", b"22", None]
    assert read(engine, recent, ["i3", "i1"]) == [None, b"1"]
    assert recent.bytes_read == 3  # none was read twice
    script = (
        "from pathlib import Path\n"
        "from service.state.lmdb_engine import LmdbEngine\n"
        "from service.state.engine import Key, Value\n"
        f"engine = LmdbEngine(Path({str(tmp_path)!r}))\n"
        "engine.put_many([(Key('item', 'i3'), Value(b'3'))])\n"
        "engine.delete([Key('item', 'i1')])\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    assert read(engine, recent, ["i1", "i2", "i3"]) == [None, b"22", b"3"]
    engine.update_many([Key("item", "i2")], lambda place, blob: Value(b"22!"))
    assert read(engine, recent, ["i1", "i2", "i3"]) == [None, b"22!", b"3"]
    engine.close()


def test_an_item_expires_between_two_lookups_without_a_write(tmp_path):
    now = [1000]
    engine, recent = LmdbEngine(tmp_path, clock=lambda: now[0]), RecentItems()
    engine.put_many([(Key("item", "i1"), Value(b"1", 1500)), (Key("item", "i2"), Value(b"2"))])
    assert read(engine, recent, ["i1", "i2"]) == [b"1", b"2"]
    now[0] = 1500
    assert read(engine, recent, ["i1", "i2"]) == [None, b"2"]
    engine.close()


class Counted:
    """An environment that counts its transactions."""

    def __init__(self, environment):
        self._environment, self.transactions = environment, 0

    def __getattr__(self, name):
        return getattr(self._environment, name)

    def begin(self, **options):
        self.transactions += 1
        return self._environment.begin(**options)


def test_a_lookup_without_a_commit_since_the_last_one_needs_no_transaction(tmp_path, monkeypatch):
    engine, recent = LmdbEngine(tmp_path), RecentItems()
    engine.put_many([(Key("user", "u1"), Value(b"1")), (Key("item", "i1"), Value(b"2"))])
    counted = Counted(engine._environment)
    monkeypatch.setattr(engine, "_environment", counted)

    def users_of(*ids):
        before = counted.transactions
        users = engine.read(ids, ["i1"], recent.find(["i1"]), recent)
        return users, counted.transactions - before

    assert users_of("u1") == ([b"1"], 1)
    assert users_of("u1") == ([b"1"], 0)
    assert users_of("u1", "gone") == ([b"1", None], 1)  # that a user is absent is not kept
    engine.put_many([(Key("load", "other"), Value(b"3"))])
    assert users_of("u1") == ([b"1"], 1)
    engine.update_many([Key("user", "u1")], lambda place, blob: Value(b"4"))
    assert users_of("u1") == ([b"4"], 1)
    engine.delete([Key("user", "u1")])
    assert users_of("u1") == ([None], 1)
    assert recent.bytes_read == 4 + 4  # of the user, and of the item after each commit
    engine.close()


def test_a_user_expires_between_two_lookups_without_a_write(tmp_path):
    now = [1000]
    engine, recent = LmdbEngine(tmp_path, clock=lambda: now[0]), RecentItems()
    engine.put_many([(Key("user", "u1"), Value(b"1", 1500)), (Key("user", "u2"), Value(b"2"))])

    def users():
        return engine.read(["u1", "u2"], [], recent.find([]), recent)

    assert users() == [b"1", b"2"]
    now[0] = 1500
    assert users() == [None, b"2"]
    engine.close()
