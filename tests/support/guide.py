"""The commands of docs/loop.md, and what they need in miniature."""

import re
import shlex
import subprocess
import sys

import numpy as np
import yaml

from loadtest.loop.day import ServedDay
from loadtest.loop.feedback import events_of
from loadtest.loop.first_model import write_log
from loadtest.loop.plan import Base, Scale, hour, training_config, world_of, write_config
from loadtest.results import ROOT
from model.study.known_world import Size

GUIDE = (ROOT / "docs" / "loop.md").read_text("utf-8")
SHELL = re.findall(r"^```sh\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
DOCUMENTS = [
    yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", GUIDE, re.DOTALL | re.M)
]
PARTS = 16  # calls of a day
SCALE = Scale(Size(users=40, items=24, arrivals=2, lists=80, rounds=4), days=2)


def commands(start):
    """Return the command lines of the guide that begin with a text, as words.

    The model has the name of the simulated world.
    """
    text = "\n".join(SHELL).replace("\\\n", " ").replace("models/shop", "models/world")
    return [shlex.split(line) for line in text.splitlines() if line.startswith(start)]


def run(words, directory, status=0):
    """Run a command of the guide with this interpreter, and return its output."""
    command = [sys.executable, *words[1:]]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, env=environment)
    assert done.returncode == status, done.stderr
    return done.stdout


def settings():
    """Return the settings of the service of the guide by name, in a directory $PWD."""
    return dict(re.findall(r"RERANK_(\w+)=(\S+)", "\n".join(SHELL)))


def serve_days(served, clock, begin):
    """Rank the lists of the two days before a moment in ms, and send their feedback.

    Lists come in calls of few, spread over the days.
    """
    world = world_of(0, SCALE)
    for number in (-2, -1):
        day = ServedDay(number, world.lists(number))
        for part in range(PARTS):
            rows = np.arange(part, len(day.lists), PARTS)
            moment = begin + hour(number, 24.0 * part / PARTS)
            clock.set(moment)
            responses = served.rank(day.requests(rows))
            day.record(rows, responses)
            clicks = world.clicks(day.lists, day.slates)[rows].tolist()
            served.send_feedback(
                [
                    event
                    for row, clicked, response in zip(rows.tolist(), clicks, responses, strict=True)
                    for event in events_of(response, f"u{day.lists.user[row]}", clicked, moment)
                ]
            )


def make_first(directory):
    """Do step 1 of the guide on a generated log; return the directory."""
    write_log(directory, world_of(0, SCALE), 1_700_000_000_000 // 86_400_000 * 86_400_000)
    (directory / "shop.yaml").write_bytes((directory / "schema.yaml").read_bytes())
    for name, again in (("train", False), ("again", True)):
        config = training_config(Base(), SCALE, 0, again)
        config["reasoning"]["budget"] = 1
        for stage in ("evaluator", "warm_start", "grpo"):
            config[stage]["epochs"] = 1
        config["grpo"]["samples_per_epoch"] = 2
        write_config(directory / f"{name}.yaml", config)
    for words in (*commands("python -m model prepare"), *commands("python -m model train"),
                  *commands("python -m export")):  # fmt: skip
        run(words, directory)
    return directory
