"""Atomic replacement of data sets."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from model.data.errors import DataError
from model.data.replacement import atomic_replacement
from tests.support.logs import LOG, digest_tree


def test_an_interruption_leaves_only_the_old_data_set(shop):
    out = shop()
    before = digest_tree(out.parent)
    # The interrupt must come after a file was written, so the block holds two statements.
    with pytest.raises(KeyboardInterrupt), atomic_replacement([out]) as (directory,):  # noqa: PT012
        (directory / "schema.yaml").write_text("half")
        raise KeyboardInterrupt
    assert digest_tree(out.parent) == before


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("move", range(5))
def test_an_interruption_between_moves_leaves_all_old_data_sets(shop, monkeypatch, move, when):
    out = shop()
    other, fresh = shutil.copytree(out, out.with_name("other")), out.with_name("fresh")
    before = digest_tree(out.parent)
    rename, calls = Path.rename, itertools.count()

    def interrupted(path, target):
        number = next(calls)
        if (number, when) == (move, "before"):
            raise KeyboardInterrupt
        rename(path, target)
        if (number, when) == (move, "after"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), atomic_replacement([out, fresh, other]) as directories:  # noqa: PT012
        for directory in directories:
            (directory / "schema.yaml").write_text("new")
        monkeypatch.setattr(Path, "rename", interrupted)
    assert digest_tree(out.parent) == before
    assert not fresh.exists()


def test_the_next_run_restores_the_data_set_of_a_run_killed_between_moves(shop):
    out = shop()
    before = digest_tree(out)
    out.rename(out.with_name("shop.tmp.old"))
    with pytest.raises(DataError):
        shop(LOG.replace("tea,1", "tea,2"))
    assert digest_tree(out) == before
    shutil.copytree(
        out, out.with_name("shop.tmp.old")
    )  # as after a kill between the second move and the deletion
    shop(LOG.replace("ink,0", "ink,1").replace("tea,1", "tea,0"))
    assert digest_tree(out) != before
    assert sorted(path.name for path in out.parent.iterdir()) == ["log.csv", "schema.yaml", "shop"]


def test_a_link_to_a_data_set_stays_and_its_target_is_replaced(shop, tmp_path):
    out = shop()
    elsewhere = out.rename(tmp_path / "elsewhere")
    out.symlink_to(elsewhere)
    before = digest_tree(elsewhere)
    shop(LOG.replace("ink,0", "ink,1").replace("tea,1", "tea,0"))
    assert out.is_symlink()
    assert digest_tree(elsewhere).keys() == before.keys()
    assert digest_tree(elsewhere) != before


def test_a_directory_with_other_files_is_never_replaced(shop):
    out = shop()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="must be new or a data set to replace, but holds 'thesis"):
        shop()
    assert (out / "thesis.txt").exists()
