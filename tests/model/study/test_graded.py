"""The graded report in miniature, its generated log, and the files of LightGBM's example."""

import json

import numpy as np
import pytest

from model.__main__ import main
from model.data.errors import DataError
from model.study.graded_log import draw_lists, read_example


def test_the_graded_page_has_the_figures_of_its_json(tmp_path):
    arguments = ["graded", "--smoke", "--out", str(tmp_path), "--cache", str(tmp_path / "cache")]
    assert main(arguments) == 0
    payload = json.loads((tmp_path / "graded.json").read_text(encoding="utf-8"))
    page = (tmp_path / "graded.md").read_text(encoding="utf-8")
    rows = {row["model"]: row for row in payload["rows"]}
    assert {"LambdaMART", "EGLR", "EGLR, gains of 0 and 1"} < rows.keys()
    mean, low, high = rows["EGLR"]["over LambdaMART"]
    assert f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" in page
    assert f"{rows['LambdaMART']['graded ndcg@10'][0]:.4f} [" in page
    assert rows["random order"]["graded ndcg@10"][0] < rows["LambdaMART"]["graded ndcg@10"][0]


def test_drawn_lists_have_the_shape_of_the_example():
    (train, test), again = draw_lists(3), draw_lists(3)
    assert (len(train), len(test)) == (201, 50)
    rows = np.concatenate([query.features for query in train])
    assert rows.shape[1] == 300
    assert 2500 < len(rows) < 3500
    assert 0.5 < (rows == 0).mean() < 0.9
    grades = np.bincount(np.concatenate([query.grades for query in train])) / len(rows)
    assert (np.diff(grades) < 0).all()
    assert len(grades) == 5
    assert all(np.array_equal(a.features, b.features) for a, b in zip(train, again[0], strict=True))


def write_example(directory, rows="2 1:0.5 4:1\n0 2:3\n1 1:0.1\n", sizes="2\n1\n"):
    for name in ("rank.train", "rank.test"):
        (directory / name).write_text(rows)
        (directory / f"{name}.query").write_text(sizes)


def test_the_examples_files_are_read_into_queries(tmp_path):
    write_example(tmp_path)
    train, _test = read_example(tmp_path)
    assert [query.grades.tolist() for query in train] == [[2, 0], [1]]
    assert train[0].features.tolist() == [[0, 0.5, 0, 0, 1], [0, 0, 3, 0, 0]]


@pytest.mark.parametrize(
    ("rows", "sizes", "message"),
    [
        ("2 1:0.5\nx\n", "2\n", "row 2: must be `grade column:value ...`, got 'x'"),
        ("2 1:0.5\n", "2\n", "rank.train.query: must be numbers of rows that add up to 1"),
    ],
)
def test_broken_files_of_the_example_are_refused_by_name(tmp_path, rows, sizes, message):
    write_example(tmp_path, rows, sizes)
    with pytest.raises(DataError, match=message):
        read_example(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_example(tmp_path / "absent")
