"""Version 0.1.0 of everything a user can name still works. Later versions add, never remove."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.engine.session import Session
from tests.support.servers import fresh

ROOT = Path(__file__).parents[1]
FROZEN = ROOT / "tests" / "frozen"
INTERFACES = json.loads((FROZEN / "interfaces.json").read_text(encoding="utf-8"))
BUNDLE = FROZEN / "bundles" / "ranklens" / "1"


# Prints the help of commands in one process, since the imports take most of the time.
HELP = """
import contextlib, io, json, runpy, sys
out, *commands = sys.argv[1:]
texts = {}
for command in commands:
    package, *words = command.split()
    sys.argv = [package, *words, "--help"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_module(package, run_name="__main__", alter_sys=True)
    texts[command] = printed.getvalue()
with open(out, "w") as file:
    json.dump(texts, file)
"""


def output_of(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def helps(tmp_path_factory):
    """Help of each command by its words; that of a child process is missing."""
    out = tmp_path_factory.mktemp("helps") / "texts.json"
    output_of("-c", HELP, out, *INTERFACES["options"])
    return json.loads(out.read_text("utf-8"))


@pytest.mark.parametrize("command", INTERFACES["options"])
def test_every_command_still_has_its_options(helps, command):
    text = helps[command] or output_of("-m", *command.split(), "--help")
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]", text))
    assert set(INTERFACES["options"][command]) - options == set()


def test_every_setting_is_still_printed():
    names = re.findall(
        r"^(RERANK_\w+)=", output_of("-m", "service", "--print-settings"), re.MULTILINE
    )
    assert set(INTERFACES["settings"]) - set(names) == set()


@pytest.fixture(scope="module")
def url():
    with fresh(Session.load(BUNDLE)) as address:
        yield address


def test_the_bundle_of_the_first_version_still_loads_and_answers(url):
    body = {"candidates": ["1036", "10", "1042", "47"], "slate_size": 2}
    response = httpx.post(f"{url}/rerank", json=body).raise_for_status().json()
    assert response["model"] == {"name": "ranklens", "version": "1", "variant": "active"}
    assert len(response["slate"]) == 2


def test_every_metric_is_still_exported(url):
    page = httpx.get(f"{url}/metrics").raise_for_status().text
    assert set(INTERFACES["metrics"]) - set(re.findall(r"^# TYPE (\S+) ", page, re.M)) == set()


def test_every_path_of_the_openapi_document_still_has_its_methods(url):
    paths = httpx.get(f"{url}/openapi.json").raise_for_status().json()["paths"]
    for path, methods in INTERFACES["paths"].items():
        assert set(methods) - paths[path].keys() == set(), path
