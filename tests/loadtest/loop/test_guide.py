"""Every command of docs/loop.md runs in miniature, and its documents are valid."""

import json
import re
import shutil

import httpx
import pytest
import tyro

from loadtest.server import serving
from model.__main__ import Command
from model.data.schemas import load_schema
from model.experiment.commands import Experiment
from model.experiment.rules import Rules
from model.retraining.commands import Retrain
from tests.support.guide import DOCUMENTS, GUIDE, SHELL, commands, run


def test_every_command_of_the_guide_is_one_that_these_tests_cover():
    lines = "\n".join(SHELL).replace("\\\n", " ").splitlines()
    covered = (
        "make loop", "python -m model prepare", "python -m model train", "python -m export",
        "python -m service", "python -m model retrain", "python -m model experiment",
    )  # fmt: skip
    assert [sum(line.startswith(start) for line in lines) for start in covered] == [1] * 7
    calls = [line for line in lines if line.startswith(("python", "make", "curl"))]
    assert len(calls) == len(covered) + 3


@pytest.mark.parametrize(("name", "kind"), [("retrain", Retrain), ("experiment", Experiment)])
def test_the_options_of_a_command_exist(name, kind):
    (words,) = commands(f"python -m model {name}")
    parsed = tyro.cli(Command, args=words[3:], config=(tyro.conf.FlagCreatePairsOff,))
    assert isinstance(parsed, kind)


def test_the_documents_of_the_guide_are_valid(first, tmp_path):
    declared, rules = DOCUMENTS
    (tmp_path / "rules.yaml").write_text(json.dumps(rules))
    assert Rules.read(tmp_path / "rules.yaml").at_the_end == "promote"
    schema = load_schema(first / "shop.yaml")
    assert declared["passed_over"]["rule"] == schema.passed_over.rule == "all"
    assert declared["events"].keys() == schema.events.keys()


@pytest.fixture
def served(first, tmp_path):
    """A service with the settings of the guide, in a directory of its own; yield both."""
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    text = "\n".join(SHELL)
    settings = dict(re.findall(r"RERANK_(MODELS|STATE|JOURNAL|EXPLORE_SHARE)=(\S+)", text))
    assert len(settings) == 4
    values = {name: value.replace("$PWD", str(tmp_path)) for name, value in settings.items()}
    values["MODELS"] = tmp_path / values["MODELS"]
    with serving(tmp_path / "models" / "world" / "1", timeout_ms=30_000, **values) as server:
        yield server.url, tmp_path


def test_the_calls_of_the_guide_are_answered_and_the_later_steps_run(served):
    url, directory = served
    item, ranking, feedback = re.findall(
        r"localhost:8000(/\w+)\s+(?:-d|--data-binary) '(.*?)'", GUIDE, re.DOTALL
    )
    assert httpx.put(url + item[0], content=item[1]).json()["written"] == 1
    response = httpx.post(url + ranking[0], content=ranking[1]).raise_for_status().json()
    assert len(response["slate"]) == 3
    assert httpx.post(url + feedback[0], content=feedback[1]).json()["accepted"] == 1
    # Nothing is settled yet, so the run is planned alone; `make loop` runs it.
    (words,) = commands("python -m model retrain")
    plan = run([*words, "--dry-run"], directory)
    assert "world/2 from world/1" in plan
    assert "publish: to do" in plan
    (directory / "rules.yaml").write_text(json.dumps(DOCUMENTS[1]))
    (words,) = commands("python -m model experiment")
    assert "canary" in run(words, directory)
