"""The study of learning from search keeps finished cells and compares with the host."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from model.learning import checkpoint
from model.network.config import ConfigError
from model.study import search_cells
from model.study.pages import render
from model.study.search import measure, report
from model.study.search_cells import OF_SLATES, POSITIONAL, gate_names_of, labels_of
from model.study.search_command import Search
from model.study.search_gates import ALWAYS, NONE, gate_names
from model.study.search_models import Source, is_host, overrides_of, plan_sources
from model.study.search_plots import FIGURES, plot_search
from model.study.search_section import entropy_shape, section
from model.study.search_summary import share_of_gain, summarise

CONFIG = Path("model/configs/search.yaml")
ABSENT = Path("no/such/directory")


@pytest.fixture(scope="module")
def miniature(warm_ranklens, tmp_path_factory):
    """A miniature on RankLens and in the known world: its command and its JSON."""
    root = tmp_path_factory.mktemp("search")
    command = Search(
        data=warm_ranklens, movielens=ABSENT, out=root / "out", cache=root / "cache", seeds=1,
        smoke=True,
    )  # fmt: skip
    report(command)
    return command, json.loads((root / "out" / "search.json").read_text())


@pytest.mark.long
def test_a_miniature_measures_every_gate_and_trains_no_finished_cell_again(
    miniature, monkeypatch, tmp_path
):
    command, payload = miniature
    assert [dataset["name"] for dataset in payload["datasets"]] == ["known world", "RankLens"]
    for dataset in payload["datasets"]:
        rows = {(row["model"], row["gate"]): row for row in dataset["rows"]}
        gates = gate_names(full=True)
        assert [*rows] == [("pointer host", NONE), *(("pointer EGLR", gate) for gate in gates)]
        steps = [rows["pointer EGLR", gate]["steps"][0] for gate in gates]
        assert (steps[0], steps[-1]) == (0.0, 4 * 2)
        assert all(0 < step < 4 * 2 for step in steps[1:-1])
        for row in rows.values():
            assert -1e-6 < row["regret"][0] < 1
            assert 0 <= row["agreement"][0] <= 1
            assert row["ms"] > 0
    assert payload["core_seconds"] > 0
    monkeypatch.setattr(search_cells, "train", lambda *_: pytest.fail("trained a finished cell"))
    assert measure(command)["datasets"] == payload["datasets"]
    assert measure(dataclasses.replace(command, finished=True))["datasets"] == payload["datasets"]
    other = tmp_path / "other.yaml"
    other.write_text(CONFIG.read_text().replace("alpha: 0.5", "alpha: 0.9"))
    with pytest.raises(checkpoint.CheckpointError, match="another configuration"):
        measure(dataclasses.replace(command, config=other))


@pytest.mark.long
def test_the_section_of_a_miniature_renders_with_its_plots_and_every_data_set(miniature):
    command, payload = miniature
    text = render("search_section.md.jinja", search=section(payload))
    assert text.startswith("## Learning from search\n")
    lines = text.splitlines()
    for dataset in payload["datasets"]:
        assert f"### Learning from search: {dataset['name']}" in lines
        for row in dataset["rows"]:
            if row["gate"] == ALWAYS:
                assert f"| {row['regret'][0]:.5f} [" in text
    assert all((command.out / name).stat().st_size > 10_000 for name in FIGURES)
    for start in ("| model | seeds | gate |", "| pointer EGLR | 1 | every step"):
        columns = [line.count("|") - 1 for line in lines if line.startswith(start)]
        assert columns == [10, 11]  # clicks, and two metrics of labels


@pytest.mark.long
def test_data_sets_that_compare_no_gates_have_no_plot(miniature, tmp_path):
    _, payload = miniature
    without = [{**dataset, "gates": []} for dataset in payload["datasets"]]
    plot_search({"datasets": without}, tmp_path)
    assert not [*tmp_path.iterdir()]
    plot_search({"datasets": [without[0], payload["datasets"][1]]}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FIGURES)


def cells_of(source, difference, seeds=2, lists=50):
    """Return cells in which every gate of a model has the host's figures plus a difference."""
    draw = np.random.default_rng(0)
    names = (*OF_SLATES, *labels_of(source))
    cells = []
    for _ in range(seeds):
        host = {name: draw.normal(size=lists) for name in names}
        of_seed = {}
        for model in source.models:
            shift = 0.0 if is_host(model) else difference
            of_seed[model] = {"seconds": np.array(1.0)}
            for gate in gate_names_of(model):
                of_seed[model] |= {f"{gate} {name}": host[name] + shift for name in names}
                of_seed[model] |= {f"{gate} {name}": np.zeros(4) for name in POSITIONAL}
                of_seed[model][f"{gate} ms"] = np.array(1.0)
        cells.append(of_seed)
    return cells


def test_differences_are_paired_with_the_host_of_the_same_seed():
    source = Source("x", ABSENT, CONFIG, None, None, None, ("pointer host", "pointer EGLR"))
    for row in summarise(source, cells_of(source, -0.1))["rows"]:
        if row["model"] == "pointer EGLR":
            assert row["regret - host"] == pytest.approx([-0.1] * 3)
            low, high = row["regret"][1:]
            assert high - low > 0.05  # the lists themselves differ


def test_low_high_low_is_seen_only_with_a_peak_inside_the_slate():
    for after, words in (
        ([0.1, 0.9, 0.2], "highest at position 1 of 0 to 2, so the paper's low, high, low is seen"),
        ([0.9, 0.5, 0.2], "position 0 of 0 to 2, so the paper's low, high, low is not seen"),
        ([0.1, 0.5, 0.9], "position 2 of 0 to 2, so the paper's low, high, low is not seen"),
    ):
        entries = [{"model": "pointer EGLR", "gate": ALWAYS, "entropy after": after}]
        assert words in entropy_shape({"entropy": entries})


def test_a_row_is_over_the_seeds_that_have_its_model_and_its_host():
    models = ("pointer host", "pointer EGLR", "pointer zero token")
    source = Source("x", ABSENT, CONFIG, None, None, None, models)
    cells = cells_of(source, -0.1, seeds=3)
    del cells[2]["pointer EGLR"]
    summary = summarise(source, cells)
    seeds = {row["model"]: row["seeds"] for row in summary["rows"]}
    assert seeds == {"pointer host": 3, "pointer EGLR": 2, "pointer zero token": 3}
    assert [entry["seeds"] for entry in summary["controls"]] == [2]
    assert summary["controls"][0]["difference"] == pytest.approx([0.0] * 3)
    row = next(row for row in summary["rows"] if row["model"] == "pointer EGLR")
    assert row["regret - host"] == pytest.approx([-0.1] * 3)


def test_the_share_of_a_gain_is_that_of_the_regret_saved_and_none_without_a_clear_gain():
    assert share_of_gain(0.02, 0.08) == pytest.approx(0.25)
    source = Source("x", ABSENT, CONFIG, None, None, None, ("pointer host", "pointer EGLR"))
    cells = cells_of(source, -0.08)
    for of_seed in cells:  # the entropy gate at a tenth of the steps saves a quarter
        arrays = of_seed["pointer EGLR"]
        arrays["entropy 10 % regret"] = arrays["entropy 10 % regret"] + 0.06
    left = {entry["share"]: entry["left"] for entry in summarise(source, cells)["shares"]}
    assert left == {0.5: 1.0, 0.25: 1.0, 0.1: 0.25}
    for difference in (0.0, 0.08):  # no gain, and a clear loss
        without = summarise(source, cells_of(source, difference))["shares"]
        assert all(entry["left"] is None for entry in without)


def test_an_idea_dies_unless_its_regret_is_clearly_below_that_of_its_control():
    models = ("pointer host", "pointer EGLR", "pointer EGLR, teacher per step",
              "pointer zero token, teacher per step")  # fmt: skip
    source = Source("x", ABSENT, CONFIG, None, None, None, models)
    cells = cells_of(source, -0.1)
    verdicts = [entry["killed"] for entry in summarise(source, cells)["kills"]]
    assert verdicts == [True, True, True]
    for of_seed in cells:
        arrays = of_seed["pointer EGLR, teacher per step"]
        arrays[f"{ALWAYS} regret"] = arrays[f"{ALWAYS} regret"] - 0.01
    verdicts = [entry["killed"] for entry in summarise(source, cells)["kills"]]
    assert verdicts == [False, False, True]


def test_unknown_names_and_a_configuration_without_search_are_refused(warm_ranklens, tmp_path):
    command = Search(data=warm_ranklens, movielens=ABSENT, cache=tmp_path, smoke=True)
    with pytest.raises(ConfigError, match=r"--models: must be one of .*, got 'pointer EGRL'"):
        measure(dataclasses.replace(command, models=("pointer EGRL",)))
    with pytest.raises(ConfigError, match=r"--datasets: must be one of world, .*, got 'imdb'"):
        measure(dataclasses.replace(command, datasets=("imdb",)))
    plain = Path("model/configs/ranklens.yaml")
    with pytest.raises(ConfigError, match=r"ranklens\.yaml: search: required"):
        measure(dataclasses.replace(command, config=plain, datasets=("ranklens",)))


def test_data_sets_without_a_directory_are_left_out_and_models_follow_their_hosts(tmp_path):
    command = Search(data=ABSENT, movielens=tmp_path, models=("gru EGLR", "pointer zero token"))
    sources = plan_sources(command, tmp_path)
    assert [source.name for source in sources] == ["known world", "MovieLens-1M"]
    both = plan_sources(dataclasses.replace(command, data=tmp_path, models=()), tmp_path)
    assert [source.name for source in both][1:3] == ["RankLens", "RankLens, trained for longer"]
    assert all(source.models[0] == "pointer host" for source in both)
    assert sources[0].models == ("gru host", "gru EGLR", "pointer host", "pointer zero token")
    assert overrides_of("gru zero token")["reasoning"] == {"token": "zero"}
