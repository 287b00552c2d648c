"""Fixtures of the service's tests."""

import shutil

import httpx
import pytest

from tests.support.bundles import BUNDLE


@pytest.fixture
def client(url):
    with httpx.Client(base_url=url, timeout=30) as connected:
        yield connected


@pytest.fixture
def store(tmp_path):
    """A store that holds the committed bundle."""
    root = tmp_path / "models"
    shutil.copytree(BUNDLE, root / "ranklens" / "1")
    return root
