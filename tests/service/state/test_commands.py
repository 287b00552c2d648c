"""The command line of the store: load, dump, stats, delete, compact."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest

from service.state import loading
from service.state.address import parse_address
from service.state.commands import main
from service.state.engine import Key, Value
from service.state.errors import EntityError, StateUnavailable
from service.state.lmdb_engine import LmdbEngine
from service.state.loading import LoadOptions, load
from service.state.opening import open_engine
from tests.support.bundles import BUNDLE

ROOT = Path(__file__).parents[3]
LINES: list[dict] = [
    *(
        {"user": f"u{n}", "features": {"age": n}, "history": [f"i{n}", {"id": "9", "label": 0.5}]}
        for n in range(40)
    ),
    *(
        {"item": f"i{n}", "features": {"price": n / 4},
         "counters": {"like_rate": {"shows": 3.0, "likes": 1.5, "time": n}}}
        for n in range(30)
    ),
]  # fmt: skip


@pytest.fixture
def state(tmp_path):
    return f"lmdb://{tmp_path}/state"


def write(path, records=LINES):
    if "msgpack" in path.suffixes[0]:
        content = b"".join(map(msgpack.packb, records))
    else:
        content = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def entities_of(address):
    engine = open_engine(parse_address(str(address)))
    try:
        return {
            kind: dict(entry for batch in engine.scan(kind) for entry in batch)
            for kind in ("user", "item", "load")
        }
    finally:
        engine.close()


@pytest.mark.parametrize("name", ["a.ndjson", "a.msgpack", "a.jsonl.gz", "a.msgpack.gz"])
def test_a_file_is_loaded_in_each_format(tmp_path, state, capsys, name):
    assert main(["load", write(tmp_path / name), "--state", state]) == 0
    assert capsys.readouterr().out == "loaded 70 entities, 0 bad lines\n"
    entities = entities_of(state)
    assert [len(entities[kind]) for kind in ("user", "item", "load")] == [40, 30, 0]


@pytest.mark.parametrize("address", ["redis", "cluster"], indirect=True)
@pytest.mark.parametrize("form", ["ndjson", "msgpack"])
def test_a_dump_of_one_engine_loads_into_the_other(tmp_path, state, address, form):
    first, second = tmp_path / f"a.{form}", tmp_path / f"b.{form}.gz"
    assert main(["load", write(tmp_path / "in.ndjson"), "--state", state]) == 0
    assert main(["dump", str(first), "--state", state]) == 0
    assert first.stat().st_mode & 0o777 == 0o600  # it holds personal data
    assert main(["load", str(first), "--state", str(address)]) == 0
    assert entities_of(address) == entities_of(state)
    assert main(["dump", str(second), "--state", str(address)]) == 0
    assert main(["load", str(second), "--state", f"lmdb://{tmp_path}/copy"]) == 0
    assert entities_of(f"lmdb://{tmp_path}/copy") == entities_of(state)


def test_a_dump_to_standard_output_has_a_line_per_entity(tmp_path, state):
    main(["load", write(tmp_path / "in.ndjson"), "--state", state])
    command = [sys.executable, "-m", "service", "state", "dump", "--state", state, "--kind", "item"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [json.loads(line)["item"] for line in done.stdout.splitlines()] == sorted(
        record["item"] for record in LINES if "item" in record
    )
    assert done.stderr == "dumped 30 entities\n"


def test_a_bad_line_ends_the_load_with_its_number_field_rule_and_value(tmp_path, state, capsys):
    path = write(tmp_path / "a.ndjson", [*LINES[:3], {"user": "u9", "features": {"age": {}}}])
    assert main(["load", path, "--state", state]) == 2
    assert capsys.readouterr().err == (
        f"state: {path}:4: features.age: a number, a text, true or false, or a list of numbers or "
        "of texts, got {}\n"
    )


def test_bad_lines_may_be_reported_and_passed_over(tmp_path, state, capsys):
    path = tmp_path / "a.ndjson"
    path.write_text('{"user": "u1"}\nno json\n\n{"user": 1.5}\n{"item": "i1"}\n')
    assert main(["load", str(path), "--state", state, "--skip-bad-lines"]) == 0
    output = capsys.readouterr()
    assert output.out == "loaded 2 entities, 2 bad lines\n"
    assert [line.split(" ")[0] for line in output.err.splitlines()] == [f"{path}:2:", f"{path}:4:"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.msgpack", b"\x81\xa4user\xa2u1\xc1", "record 2: MessagePack"),
        ("a.msgpack", b"\x81\xa4user\xa2u1\x81\xa4us", "record 2: complete"),
        ("a.ndjson.gz", gzip.compress(b'{"user": "u1"}\n')[:-4], "a complete gzip file"),
        ("a.ndjson.gz", b"no gzip", "gzip"),
        ("a.csv", b"", "file: a file that ends with .ndjson"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, state, capsys, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    assert main(["load", str(path), "--state", state, "--skip-bad-lines"]) == 2
    assert message in capsys.readouterr().err


class FailingEngine(LmdbEngine):
    """Fails at its third batch, as if the process had been killed there."""

    batches = 0

    def update_many(self, keys, change, once=None):
        self.batches += 1
        if self.batches == 3:
            raise StateUnavailable("killed")
        return super().update_many(keys, change, once)


def test_an_interrupted_load_resumes_behind_its_last_batch(tmp_path, state, monkeypatch, capsys):
    monkeypatch.setattr(loading, "BATCH", 20)
    path = write(tmp_path / "a.ndjson")
    engine = FailingEngine(tmp_path / "state")
    with pytest.raises(StateUnavailable):
        load(engine, Path(path), LoadOptions(128, "ndjson"))
    engine.close()
    assert [len(each) for each in entities_of(state).values()] == [40, 0, 1]
    assert main(["load", path, "--state", state]) == 0
    assert capsys.readouterr().out == "loaded 30 entities, 0 bad lines, 40 lines done before\n"
    assert [len(each) for each in entities_of(state).values()] == [40, 30, 0]


def test_a_restarted_load_begins_with_the_first_line(tmp_path, state, monkeypatch, capsys):
    monkeypatch.setattr(loading, "BATCH", 20)
    path = write(tmp_path / "a.ndjson")
    engine = FailingEngine(tmp_path / "state")
    with pytest.raises(StateUnavailable):
        load(engine, Path(path), LoadOptions(128, "ndjson"))
    engine.close()
    assert main(["load", path, "--state", state, "--restart"]) == 0
    assert capsys.readouterr().out == "loaded 70 entities, 0 bad lines\n"


def test_the_progress_of_another_file_is_not_resumed(tmp_path, state, monkeypatch, capsys):
    monkeypatch.setattr(loading, "BATCH", 20)
    engine = FailingEngine(tmp_path / "state")
    with pytest.raises(StateUnavailable):
        load(engine, Path(write(tmp_path / "a.ndjson")), LoadOptions(128, "ndjson"))
    engine.close()
    path = write(tmp_path / "a.ndjson", LINES[:-1])
    assert main(["load", path, "--state", state]) == 0
    assert capsys.readouterr().out == "loaded 69 entities, 0 bad lines\n"


def test_a_load_with_a_bundle_checks_features_by_its_schema(tmp_path, state, capsys):
    good = write(tmp_path / "good.ndjson", [{"item": "1", "features": {"genres": ["Drama"]}}])
    assert main(["load", good, "--state", state, "--bundle", str(BUNDLE)]) == 0
    for features, message in (
        ({"nosuch": 1}, "features.nosuch: a feature of item of the schema, got 1"),
        ({"genres": [1.5]}, "features.genres: a list of texts, got [1.5]"),
    ):
        bad = write(tmp_path / "bad.ndjson", [{"item": "1", "features": features}])
        assert main(["load", bad, "--state", state, "--bundle", str(BUNDLE)]) == 2
        assert message in capsys.readouterr().err


def test_a_bundle_without_a_schema_is_refused(tmp_path, state, capsys):
    path = write(tmp_path / "a.ndjson", [])
    assert main(["load", path, "--state", state, "--bundle", str(tmp_path)]) == 2
    assert "features.json: the feature schema of a bundle" in capsys.readouterr().err


def test_deleted_entities_are_gone_also_from_the_file_once_it_is_compacted(tmp_path, state, capsys):
    main(["load", write(tmp_path / "a.ndjson"), "--state", state])
    assert main(["delete", "--state", state, "--user", "u7", "nobody", "--item", "i7"]) == 0
    assert "deleted 2 of 3 entities\n" in capsys.readouterr().out
    assert main(["compact", "--state", state]) == 0
    assert "u7" not in entities_of(state)["user"]
    assert main(["delete", "--state", state]) == 2


def test_the_stats_are_json(tmp_path, state, capsys):
    main(["load", write(tmp_path / "a.ndjson"), "--state", state])
    capsys.readouterr()
    assert main(["stats", "--state", state]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["engine"] == "lmdb"
    assert stats["entities"] == {"user": 40, "item": 30}


def test_the_store_is_that_of_the_environment_by_default(state, monkeypatch, capsys):
    monkeypatch.setenv("RERANK_STATE", state)
    assert main(["stats"]) == 0
    monkeypatch.setenv("RERANK_STATE", "off")
    assert main(["stats"]) == 2
    assert "no store: set RERANK_STATE or --state to lmdb:///DIRECTORY" in capsys.readouterr().err


def test_the_password_of_an_address_is_not_printed(capsys):
    assert main(["stats", "--state", "redis://:s3cret@127.0.0.1:1/0"]) == 2
    error = capsys.readouterr().err
    assert "127.0.0.1:1" in error
    assert "s3cret" not in error


def test_a_dump_that_fails_leaves_the_file_before_it(tmp_path, state, monkeypatch):
    target = tmp_path / "out.ndjson"
    target.write_text("before")
    main(["load", write(tmp_path / "a.ndjson"), "--state", state])

    def refuse(key, value):
        raise StateUnavailable("killed")

    monkeypatch.setattr(loading, "record_of", refuse)
    assert main(["dump", str(target), "--state", state]) == 2
    assert target.read_text() == "before"


def test_blobs_that_no_store_has_written_are_left_out_of_a_dump(tmp_path, state, capsys):
    main(["load", write(tmp_path / "a.ndjson"), "--state", state])
    engine = LmdbEngine(tmp_path / "state")
    engine.put_many([(Key("user", "u0"), Value(b"noise"))])
    engine.close()
    assert main(["dump", str(tmp_path / "out.ndjson"), "--state", state]) == 0
    assert "dumped 69 entities, 1 unreadable ones left out" in capsys.readouterr().err


def test_an_unknown_field_of_a_schema_check_is_named(tmp_path, state):
    path = Path(write(tmp_path / "a.ndjson", [{"user": "u", "nosuch": 1}]))
    engine = LmdbEngine(tmp_path / "state")
    with pytest.raises(EntityError, match=r"a\.ndjson:1: nosuch: unknown field"):
        load(engine, path, LoadOptions(128, "ndjson"))
    engine.close()


def test_the_entities_of_the_documentation_load(tmp_path, state, capsys):
    text = (ROOT / "docs" / "state.md").read_text(encoding="utf-8")
    (block,) = (b for b in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if '"item"' in b)
    path = tmp_path / "a.ndjson"
    path.write_text(block)
    assert main(["load", str(path), "--state", state]) == 0
    assert capsys.readouterr().out == "loaded 3 entities, 0 bad lines\n"
