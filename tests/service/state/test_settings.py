"""The settings of the store on the service's command line, which repeats no password."""

import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from service.settings import Settings
from tests.support.bundles import ROOT


def run(address, *arguments):
    environment = {name: value for name, value in os.environ.items() if "RERANK_" not in name}
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env={**environment, "RERANK_STATE": address},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_printed_settings_have_the_address_without_its_password():
    done = run("redis://:s3cret@h/1", "--print-settings")
    assert "RERANK_STATE=redis://h:6379/1  # Entity store" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


def test_a_broken_address_is_refused_without_its_password():
    done = run("redis://:s3cret@h/name")
    assert done.returncode == 2
    assert "RERANK_STATE" in done.stderr
    assert "is a number, as in /0" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr


def test_off_in_any_case_is_no_store():
    assert Settings(state=" OFF ").state == "off"
    assert Settings(state="lmdb:///a").state != "off"
    with pytest.raises(ValidationError):
        Settings(state="sqlite:///a")
