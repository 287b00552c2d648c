"""The commands of docs/loop.md, and what they need in miniature."""

import re
import shlex
import subprocess
import sys

import yaml

from loadtest.loop.first_model import write_log
from loadtest.loop.plan import Base, Scale, training_config, world_of, write_config
from loadtest.results import ROOT
from model.study.known_world import Size

GUIDE = (ROOT / "docs" / "loop.md").read_text("utf-8")
SHELL = re.findall(r"^```sh\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
DOCUMENTS = [
    yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", GUIDE, re.DOTALL | re.M)
]
SCALE = Scale(Size(users=40, items=24, arrivals=2, lists=80, rounds=4), days=2)


def commands(start):
    """Return the command lines of the guide that begin with a text, as words.

    The model has the name of the simulated world.
    """
    text = "\n".join(SHELL).replace("\\\n", " ").replace("models/shop", "models/world")
    return [shlex.split(line) for line in text.splitlines() if line.startswith(start)]


def run(words, directory, **options):
    """Run a command of the guide with this interpreter, and return it with its output."""
    command = [sys.executable, *words[1:]]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, env={**environment, **options}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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
