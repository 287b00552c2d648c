"""The output of `python -m model prepare` and its documentation."""

from __future__ import annotations

import re
import subprocess
import sys

import polars as pl
import pytest

from model.data.errors import DataError
from tests.support.logs import DOC, EVENTS, ROOT, digest_tree, prepare


def test_the_documentation_shows_the_output_for_ranklens(ranklens):
    out, printed = ranklens
    assert printed.replace(str(out), "build/ranklens") in DOC


def test_preparing_ranklens_twice_gives_the_same_bytes(ranklens, tmp_path):
    prepare("ranklens", "--events", EVENTS, "--out", tmp_path)
    assert digest_tree(tmp_path) == digest_tree(ranklens[0])
    assert len(digest_tree(tmp_path)) == 18


def test_the_documented_example_has_the_documented_output_files_and_error(tmp_path):
    example = DOC[DOC.index("## Your own log") : DOC.index("### The log")]
    schema, log, command, printed, items, error = re.findall(
        r"```\w+\n(.*?)```", example, re.DOTALL
    )
    (tmp_path / "schema.yaml").write_text(schema)
    (tmp_path / "log.csv").write_text(log)
    name, *arguments = command.split()
    assert name == "python"

    def start():
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    success = start()
    assert (success.returncode, success.stdout, success.stderr) == (0, printed, "")
    table = pl.read_parquet(tmp_path / "shop" / "items.parquet").with_columns(
        pl.col("like_rate").round(3), pl.col("genres").list.join("|")
    )
    assert table.write_csv() == items
    before = digest_tree(tmp_path / "shop")
    (tmp_path / "log.csv").write_text(log.replace(",1,ink,", ",-1,ink,"))
    failure = start()
    assert (failure.returncode, failure.stdout, failure.stderr) == (2, "", error)
    assert digest_tree(tmp_path / "shop") == before


def test_kuairand_needs_a_log():
    with pytest.raises(DataError, match="--logs: must name at least one file"):
        prepare("kuairand", "--videos", "videos.csv", "--logs")
