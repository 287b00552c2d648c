"""Default directories of the study's commands, and the command line that a report records."""

from pathlib import Path

import pytest

from model.study.commands import (
    FirstStage,
    World,
    cache_directory,
    command_line,
    report_directory,
)
from model.study.report_command import Report


@pytest.mark.parametrize(
    ("smoke", "out", "cache"),
    [
        (False, "docs/reports", "build/world"),
        (True, "build/smoke/reports", "build/smoke/world"),
    ],
)
def test_a_miniature_has_default_directories_of_its_own(smoke, out, cache):
    assert report_directory(None, smoke) == Path(out)
    assert cache_directory(None, smoke, "world") == Path(cache)
    assert report_directory(Path("here"), smoke) == Path("here")
    assert cache_directory(Path("here"), smoke, "world") == Path("here")


@pytest.mark.parametrize(
    ("name", "command", "line"),
    [
        ("report", Report(), "python -m model report"),
        ("report", Report(no_training=True), "python -m model report --no-training"),
        (
            "world",
            World(reward="law", hosts=("transformer", "gru"), seeds=3),
            "python -m model world --reward law --hosts transformer gru --seeds 3",
        ),
        ("first-stage", FirstStage(Path("out")), "python -m model first-stage --out out"),
    ],
)
def test_a_command_line_has_the_options_that_differ_from_their_defaults(name, command, line):
    assert command_line(name, command) == line


def test_the_reward_names_the_report():
    assert World().name == "world"
    assert World(reward="law").name == "world_law"
