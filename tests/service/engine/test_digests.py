"""Digests: read once for each state of a file, and taken to another process."""

import os
import pickle

import pytest

from service.engine import digests
from service.engine.contract import sha256
from service.engine.digests import Digests


@pytest.fixture
def read(monkeypatch):
    """The names of the files that were read."""
    names = []

    def recording(path):
        names.append(path.name)
        return sha256(path)

    monkeypatch.setattr(digests, "sha256", recording)
    return names


def test_a_file_is_read_once_in_all_processes_that_share_the_digests(tmp_path, read):
    path = tmp_path / "a"
    path.write_bytes(b"rows")
    first = Digests()
    assert first(path) == sha256(path)
    again = pickle.loads(pickle.dumps(first))
    assert again(path) == first(path) == sha256(path)
    assert read == ["a"]


def test_a_file_that_was_changed_in_place_or_replaced_is_read_again(tmp_path, read):
    path = tmp_path / "a"
    path.write_bytes(b"rows")
    trusted = Digests()
    trusted(path)
    times = path.stat()
    path.write_bytes(b"wors")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # size and time are as before
    assert trusted(path) == sha256(path)
    (tmp_path / "b").write_bytes(b"swor")
    os.utime(tmp_path / "b", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tmp_path / "b").rename(path)
    assert trusted(path) == sha256(path)
    assert read == ["a", "a", "a"]
