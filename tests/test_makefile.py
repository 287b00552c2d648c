"""`make serve` and its bundle: paths with spaces, and variables of the environment."""

import json
import os
import subprocess

import pytest

from service.state.address import parse_address
from tests.support.bundles import ROOT

RECORD = """#!/usr/bin/env python3
import json, os, sys
settings = {name: value for name, value in os.environ.items() if name.startswith("RERANK_")}
print(json.dumps([sys.argv[1:], settings]))
"""


class Make:
    """Runs make in a checkout whose interpreters print their arguments and settings."""

    def __init__(self, root):
        self.root = root

    def __call__(self, *arguments, directory=".", **variables):
        checkout = self.root / directory
        checkout.mkdir(exist_ok=True)
        for name in ("pyproject.toml", "constraints.txt"):
            (checkout / name).write_text("")
        for environment in (".venv-service", ".venv"):
            (checkout / environment / "bin").mkdir(parents=True, exist_ok=True)
            python = checkout / environment / "bin" / "python"
            python.write_text(RECORD)
            python.chmod(0o755)
            (checkout / environment / ".installed").write_text("")
        kept = {n: v for n, v in os.environ.items() if n not in ("BUNDLE", "PYTHON", "MAKEFLAGS")}
        done = subprocess.run(
            ["make", "--silent", "-f", str(ROOT / "Makefile"), *arguments],
            cwd=checkout, env={**kept, **variables}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def make(tmp_path):
    return Make(tmp_path)


SPACED = ["/path with space/1", "/it's/1", '/a "quoted" name/1', "/semi;colon & more/1"]


@pytest.mark.parametrize("path", SPACED)
def test_a_bundle_may_have_any_path(make, path):
    assert make("serve", f"BUNDLE={path}")[0] == ["-m", "service", "--bundle", path]
    assert make("serve", BUNDLE=path)[0] == ["-m", "service", "--bundle", path]


@pytest.mark.parametrize("path", SPACED)
@pytest.mark.parametrize("target", ["bench", "load", "export"])
def test_the_other_targets_take_the_same_paths(make, target, path):
    option = "--out" if target == "export" else "--bundle"
    arguments = make(target, f"BUNDLE={path}")[0]
    assert arguments[arguments.index(option) + 1] == path
    arguments = make(target, RERANK_BUNDLE="/mine")[0]  # a setting of the service alone
    assert arguments[arguments.index(option) + 1] == "bundles/ranklens/1"


def test_the_committed_bundle_reasons_unless_validation_is_to_choose(make):
    assert make("export")[0][-2:] == ["--entropy-quantile", "0.95"]
    assert "--entropy-quantile" not in make("export", "GATE=")[0]


@pytest.mark.parametrize("name", ["RERANK_BUNDLE", "RERANK_MODELS"])
@pytest.mark.parametrize("bundle", [{}, {"BUNDLE": ""}])
def test_the_settings_of_the_environment_are_in_force(make, name, bundle):
    variables = {
        name: "/mine", "RERANK_STATE": "off", "RERANK_PLAYGROUND": "false",
    }  # fmt: skip
    arguments, settings = make("serve", **bundle, **variables)
    assert arguments == ["-m", "service"]
    assert settings == variables


@pytest.mark.parametrize("directory", ["plain", "with space", "it's 100 % #1?"])
def test_serve_has_an_entity_store_in_the_checkout(make, directory):
    address = make("serve", directory=directory)[1]["RERANK_STATE"]
    assert parse_address(address).directory == make.root / directory / "build" / "state"


@pytest.mark.parametrize("state", ["off", "", "redis://127.0.0.1:6379/0"])
def test_an_entity_store_of_the_environment_takes_precedence(make, state):
    assert make("serve", RERANK_STATE=state)[1]["RERANK_STATE"] == state


def test_serve_has_the_playground(make):
    assert make("serve")[1]["RERANK_PLAYGROUND"] == "true"


def test_the_other_targets_have_neither_entity_store_nor_playground(make):
    assert make("bench")[1] == {}


def test_bundle_takes_precedence_over_the_setting(make):
    arguments, _ = make("serve", BUNDLE="/yours", RERANK_BUNDLE="/mine")
    assert arguments == ["-m", "service", "--bundle", "/yours"]


def test_directories_of_the_training_may_have_spaces(make):
    arguments = make("train", "DATA=/a b", "CHECKPOINT=/c d", "CONFIG=/e f.yaml")[0]
    assert arguments == [
        "-m", "model", "train", "--config", "/e f.yaml", "--data", "/a b/warm", "--out", "/c d",
    ]  # fmt: skip
