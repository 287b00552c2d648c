"""The commands of docs/loop.md run in miniature, and its documents are valid.

Two days of a small world are too few lists, so the retraining ends at its first gate; the training
of a candidate is that of tests/model/retraining. `make loop` alone is not run: it takes minutes.
"""

import dataclasses
import json
import re
import shutil
import time

import httpx
import pytest
import tyro
import yaml

from loadtest.loop import learner
from loadtest.loop.feedback import WAIT
from loadtest.loop.first_model import today
from loadtest.loop.ledger import Ledger
from loadtest.loop.plan import CONFIG, DAY_MS, Scale
from loadtest.loop.served import Served
from loadtest.state.clock import Clock
from model.__main__ import Command
from model.data.schemas import load_schema
from model.experiment.commands import Experiment
from model.experiment.rules import Rules
from model.retraining.commands import Retrain
from service.journal.records import EventRecord
from service.models.store import ServingConfig
from tests.support.experiments import traffic, write_store
from tests.support.guide import DOCUMENTS, GUIDE, SHELL, commands, run, serve_days, settings
from tests.support.journals import write_segment


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


def test_the_guide_states_the_options_by_which_the_loop_differs():
    rows = re.findall(r"^\| `([^`]+)` \| (\S*) ?\| (\S+) \|", GUIDE, re.MULTILINE)
    here, loop = ({row[0]: row[column] for row in rows} for column in (1, 2))
    assert here == stated(Retrain.__dataclass_fields__, DOCUMENTS[1], "")
    rules, config = yaml.safe_load(learner.RULES), yaml.safe_load(CONFIG.read_text())
    quantile = config["reasoning"]["entropy_quantile"]
    assert loop == stated(
        {"margin": Scale().margin, "slowdown": learner.SLOWDOWN, "wait": WAIT}, rules, quantile
    )
    # Nothing else differs, but for a default that the loop states.
    others = ("reward", "window_h", "settle_h", "longest_days", "at_the_end")
    assert [rules[name] for name in others] == [DOCUMENTS[1][name] for name in others]
    assert rules.keys() - DOCUMENTS[1].keys() == {"risk"}
    assert Rules.model_validate(DOCUMENTS[1]).risk == rules["risk"]


def stated(options, rules, quantile):
    """Return the cells of the table of options by name."""
    values = {f"--{name}": getattr(options[name], "default", options[name])
              for name in ("margin", "slowdown", "wait")}  # fmt: skip
    values |= {"--entropy-quantile": quantile, "least_users": rules["least_users"]}
    values |= {"guards.degraded.rise": rules["guards"]["degraded"]["rise"]}
    return {name: format(value, "" if isinstance(value, str) else "g")
            for name, value in values.items()}  # fmt: skip


@pytest.fixture
def served(first, tmp_path):
    """A service with the settings of the guide, in a directory of its own, and its clock."""
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    values = {name.lower(): value.replace("$PWD", str(tmp_path))
              for name, value in settings().items()}  # fmt: skip
    assert values.keys() == {"models", "state", "journal", "explore_share"}
    values["models"] = tmp_path / values["models"]
    clock = Clock(tmp_path / "clock", 0)
    service = Served(tmp_path / "models" / "world" / "1", clock, values, Ledger(1))
    with service.running():
        yield service, clock, tmp_path


@pytest.mark.long
def test_the_calls_of_the_guide_are_answered_and_a_retraining_judges_their_journal(served):
    service, clock, directory = served
    item, ranking, feedback = re.findall(
        r"localhost:8000(/\w+)\s+(?:-d|--data-binary) '(.*?)'", GUIDE, re.DOTALL
    )
    serve_days(service, clock, today() - 2 * DAY_MS)
    clock.set(time.time_ns() // 1_000_000)
    url = service.url
    assert httpx.put(url + item[0], content=item[1]).json()["written"] == 1
    response = httpx.post(url + ranking[0], content=ranking[1]).raise_for_status().json()
    assert len(response["slate"]) == 3
    assert httpx.post(url + feedback[0], content=feedback[1]).json()["accepted"] == 1
    service.stop()
    (words,) = commands("python -m model retrain")
    printed = run(words, directory, status=1)
    assert printed.splitlines()[-1] == "world/2: rejected; build/retrain/2/report.html"
    record = json.loads((directory / "build" / "retrain" / "2" / "run.json").read_text())
    assert list(record["stages"]) == ["join", "prepare", "labels"]
    counts = record["stages"]["join"]["counts"]
    assert counts["lists"] == counts["lists: compared with those served"] == 160
    assert counts["events: joined"] >= 160


def test_the_experiment_of_the_guide_promotes_a_canary_that_is_better(tmp_path):
    store, journal = write_store(tmp_path / "models"), tmp_path / "build" / "journal"
    journal.mkdir(parents=True)
    records = [dataclasses.replace(record, type="click") if isinstance(record, EventRecord)
               else record for record in traffic(store, 1200, (0.3, 0.7))]  # fmt: skip
    write_segment(journal, records)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(DOCUMENTS[1]))
    (words,) = commands("python -m model experiment")
    lines = run(words, tmp_path).splitlines()
    assert "decision: promote" in lines
    assert ServingConfig.read(store / "shop") == ServingConfig("2")
