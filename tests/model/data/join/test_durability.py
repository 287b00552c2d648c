"""The order in which files of a join become durable, without which a power loss breaks a part."""

import os

import pytest

from model.data.join.erasing import LATEST, forget
from model.data.join.joining import join
from model.data.join.options import JoinOptions
from tests.support.journals import decision, event, write_segment
from tests.support.logs import SCHEMA

HOUR = 3_600_000
START = 1_700_000_000_000 - 1_700_000_000_000 % HOUR


@pytest.fixture
def synced(monkeypatch):
    """Inodes in the order of their syncs, files and directories; a list that grows."""
    before, inodes = os.fsync, []

    def spy(descriptor):
        inodes.append(os.fstat(descriptor).st_ino)
        before(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    return inodes


def joined(directory):
    """Join two lists of an hour, of two users, and return the directory of the join."""
    (directory / "journal").mkdir()
    (directory / "schema.yaml").write_text(SCHEMA)
    lists = [
        decision(
            n, f"u{n}", START + n, f"r{n}", ids=["a", "b"], slate=[1],
            features=[{"price": 1.5}] * 2, context={"hour": "9"}, history=[("a", 0.5)],
        )
        for n in range(2)
    ]  # fmt: skip
    likes = [event(n, None, START + 9, f"r{n}", item="b", label=1.0) for n in range(2)]
    write_segment(directory / "journal", [*lists, *likes])
    options = JoinOptions.read(directory / "schema.yaml", "1h", "1h", None)
    join(directory / "journal", directory / "out", options, START + 3 * HOUR)
    return directory / "out"


def are_durable(out, synced):
    """True if each file of the tables was synced, and its directory after it."""
    files = [path for path in out.glob("*/*.parquet") if not path.parent.name.startswith(".")]
    assert len(files) >= 3
    return all(
        path.stat().st_ino in synced
        and path.parent.stat().st_ino in synced[synced.index(path.stat().st_ino) :]
        for path in files
    )


def test_the_files_of_a_part_are_durable_before_the_part_is_recorded(tmp_path, synced):
    out = joined(tmp_path)
    recorded = synced.index((out / "join.json").stat().st_ino)
    assert are_durable(out, synced[:recorded])
    of_out = out.stat().st_ino
    assert of_out in synced[:recorded]  # the names of new tables
    assert synced[-1] == of_out  # the name of join.json


def test_files_without_the_lists_of_a_deleted_user_are_durable(tmp_path, synced):
    out = joined(tmp_path)
    synced.clear()
    assert forget(out, {"u0": LATEST}) == 1
    assert are_durable(out, synced)


def test_a_move_without_a_sync_is_noticed(tmp_path, synced, monkeypatch):
    monkeypatch.setattr("model.data.join.joining.move", lambda file, target: file.replace(target))
    assert not are_durable(joined(tmp_path), synced)
