"""The command line of `python -m model`."""

import subprocess
import sys
from pathlib import Path

import pytest

from model.__main__ import main
from model.learning.commands import Train

ROOT = Path(__file__).parents[2]
TRAIN = ["train", "--config", "c.yaml", "--data", "data", "--out", "out"]


def test_parsing_loads_no_package_that_is_slow_to_import():
    code = (
        "import sys, model.__main__\n"
        "try: model.__main__.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'torch', 'polars', 'scipy', 'matplotlib', 'lightgbm', 'onnxruntime', 'pydantic'}\n"
        "print(sorted(slow & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--plug-into" in done.stdout
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected one of {prepare, "),
        (["trian"], "Unrecognized options: trian"),
        (["train"], "--data PATH"),
        ([*TRAIN, "--start-from", "a", "--plug-into", "b"], "not allowed together"),
        ([*TRAIN, "--no-smoke"], "Unrecognized options: --no-smoke"),
        ([*TRAIN, "--device", "tpu"], "invalid choice 'tpu'"),
    ],
)
def test_a_wrong_command_line_exits_with_status_2_and_names_the_error(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_returns_status_130_and_says_how_to_continue(monkeypatch, capsys):
    def interrupt(_command):
        raise KeyboardInterrupt

    monkeypatch.setattr(Train, "execute", interrupt)
    assert main(TRAIN) == 130
    assert capsys.readouterr().err == "interrupted; run the same command again to go on\n"


def test_an_error_in_the_input_returns_status_2_and_one_line_with_the_command(tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("grpo: {group: 1}\n")
    assert main(["train", "--config", str(config), "--data", "data", "--out", "out"]) == 2
    line = f"train: {config}: grpo.group: must be greater than or equal to 2, got 1\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["world", "--hosts", "gru", "mpl"],
            "world: --hosts: must be one of transformer, gru, pointer, got 'mpl'\n",
        ),
        (
            ["throughput", "--config", str(ROOT / "model/configs/ranklens.yaml"), "--batch", "0"],
            "throughput: grpo.batch: must be greater than 0, got 0\n",
        ),
    ],
)
def test_an_option_of_a_study_out_of_range_is_one_line_before_any_work(
    arguments, line, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err == line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["train", "--config", "c", "--data", "d", "--out", "o", "--out", "p"], "--out"),
        (["world", "--hosts", "gru", "--hosts=pointer"], "--hosts"),
        (["scale", "--rows", "10", "--rows", "20"], "--rows"),
        (["scale", "--page-only", "--page_only"], "--page-only"),
        (["prepare", "impressions", "--log", "a", "--schema", "s", "--schema", "t", "--out", "o"],
         "--schema"),
    ],
)  # fmt: skip
def test_a_repeated_option_is_refused_instead_of_replacing_the_first(
    arguments, option, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    line = f"{arguments[0]}: {option}: must be passed once, got it 2 times\n"
    assert capsys.readouterr().err == line
    assert list(tmp_path.iterdir()) == []


def test_a_bare_value_error_is_a_bug_and_is_raised(monkeypatch):
    def fail(_command):
        raise ValueError("planted")

    monkeypatch.setattr(Train, "execute", fail)
    with pytest.raises(ValueError, match="planted"):
        main(TRAIN)
