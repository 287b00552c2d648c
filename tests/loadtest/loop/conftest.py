"""The first model of the guide, made once for all test processes."""

import pytest

from tests.support.guide import make_first


@pytest.fixture(scope="session")
def first(once):
    return once("loop-guide", make_first)
