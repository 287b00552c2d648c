"""`make serve` and its bundle: paths with spaces, and variables of the environment."""

import json
import os
import subprocess

import pytest

from tests.support.bundles import ROOT

RECORD = """#!/usr/bin/env python3
import json, os, sys
settings = {name: value for name, value in os.environ.items() if name.startswith("RERANK_")}
print(json.dumps([sys.argv[1:], settings]))
"""


@pytest.fixture
def make(tmp_path):
    """Return a function that runs make with interpreters that record their arguments."""
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    for environment in (".venv-service", ".venv"):
        (tmp_path / environment / "bin").mkdir(parents=True)
        python = tmp_path / environment / "bin" / "python"
        python.write_text(RECORD)
        python.chmod(0o755)
        (tmp_path / environment / ".installed").write_text("")

    def run(*arguments, **variables):
        kept = {n: v for n, v in os.environ.items() if n not in ("BUNDLE", "PYTHON", "MAKEFLAGS")}
        done = subprocess.run(
            ["make", "--silent", "-f", str(ROOT / "Makefile"), *arguments],
            cwd=tmp_path, env={**kept, **variables}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout.splitlines()[-1])

    return run


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
    arguments, settings = make("serve", **bundle, **{name: "/mine"})
    assert arguments == ["-m", "service"]
    assert settings == {name: "/mine"}


def test_bundle_takes_precedence_over_the_setting(make):
    arguments, _ = make("serve", BUNDLE="/yours", RERANK_BUNDLE="/mine")
    assert arguments == ["-m", "service", "--bundle", "/yours"]


def test_directories_of_the_training_may_have_spaces(make):
    arguments = make("train", "DATA=/a b", "CHECKPOINT=/c d", "CONFIG=/e f.yaml")[0]
    assert arguments == [
        "-m", "model", "train", "--config", "/e f.yaml", "--data", "/a b/warm", "--out", "/c d",
    ]  # fmt: skip
