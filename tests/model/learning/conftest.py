"""A small log of item identifiers."""

import pytest

from model.study.identifier_log import write_identifier_log


@pytest.fixture(scope="session")
def log(once):
    """A data set of 100 items whose appeal only their ids reveal."""

    def make(root):
        write_identifier_log(root / "log", items=100, rows=5000, valid=40)
        return root / "log"

    return once("identifier-log", make)
