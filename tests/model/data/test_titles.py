"""Titles of RankLens's movies for the page /playground."""

import gzip
import json

import pytest

from model.data.errors import DataError
from model.data.titles import read_titles, write_titles
from service.engine.contract import Manifest
from service.engine.features.loading import load_featuriser
from tests.support.bundles import BUNDLE, ROOT

EVENTS = ROOT / "data" / "ranklens" / "events.jsonl.gz"
COMMITTED = ROOT / "service" / "playground" / "titles.json"


def test_the_committed_titles_are_those_of_the_events_and_the_bundle(tmp_path):
    manifest = Manifest.read(BUNDLE)
    movies = read_titles(EVENTS, load_featuriser(BUNDLE, manifest).items.ids)
    assert movies["318"] == ["The Shawshank Redemption", 1994, ["drama", "crime"], "frank darabont"]
    write_titles(tmp_path / "titles.json", movies, manifest.name)
    assert (tmp_path / "titles.json").read_bytes() == COMMITTED.read_bytes()
    assert "CC BY-SA 4.0" in json.loads(COMMITTED.read_text("utf-8"))["notice"]
    write_titles(tmp_path / "other.json", {**movies, "318": ["x", None, [], None]}, manifest.name)
    assert (tmp_path / "other.json").read_bytes() != COMMITTED.read_bytes()


def test_events_without_an_item_of_the_bundle_are_refused(tmp_path):
    path = tmp_path / "events.jsonl.gz"
    event = {"event": "item", "item": "1", "fields": [{"name": "title", "value": "\U0001f600 <b>"}]}
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")
    assert read_titles(path, {"1"}) == {"1": ["\U0001f600 <b>", None, [], None]}
    with pytest.raises(DataError, match="must describe some item of the bundle"):
        read_titles(path, {"2"})
