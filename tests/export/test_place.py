"""The place of a bundle: whole or as before, whenever the writer ends."""

import pytest

from export.place import building_beside, named


def test_a_bundle_that_a_killed_run_moved_away_is_restored(tmp_path):
    (tmp_path / ".1.replaced").mkdir()
    (tmp_path / ".1.replaced" / "manifest.json").write_text("before")
    with pytest.raises(KeyboardInterrupt), building_beside(tmp_path / "1"):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert (tmp_path / "1" / "manifest.json").read_text() == "before"


def test_a_copy_of_the_bundle_before_does_not_replace_a_new_one(tmp_path):
    for name in ("1", ".1.replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(name)
    with pytest.raises(KeyboardInterrupt), building_beside(tmp_path / "1"):
        raise KeyboardInterrupt
    assert (tmp_path / "1" / "manifest.json").read_text() == "1"


def test_a_relative_path_has_the_names_of_its_directories(tmp_path, monkeypatch):
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path / "shop")
    assert named(tmp_path / "shop" / "2") == ("shop", "2")
    for out in (tmp_path / "shop" / "2").relative_to(tmp_path / "shop"), tmp_path / "x/../shop/2":
        assert named(out) == ("shop", "2")
