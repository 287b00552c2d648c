"""The exception tree, and pickling of exceptions."""

import pickle
import re

import pytest

import rerank_client
from rerank_client import (
    Failed,
    FieldProblem,
    NoAnswer,
    Refused,
    TimedOut,
    Unavailable,
)


def test_the_exception_tree_is_the_one_in_the_docstring():
    drawn = re.findall(r"^ {4}([|` -]*)(\w+)(?: {2,}|$)", rerank_client.__doc__, re.MULTILINE)
    assert [name for _, name in drawn] == [
        "RerankError", "Refused", "NoAnswer", "TimedOut", "Unavailable", "Failed"
    ]  # fmt: skip
    parents: list[type] = []
    for stem, name in drawn:
        depth = len(stem) // 3
        parents[depth:] = [getattr(rerank_client, name)]
        assert getattr(rerank_client, name).__bases__ == (
            parents[depth - 1] if depth else Exception,
        )


@pytest.mark.parametrize("kind", [NoAnswer, TimedOut, Unavailable, Failed])
def test_no_answer_survives_a_pickle(kind):
    again = pickle.loads(pickle.dumps(kind("timeout", "two attempts", "r")))
    assert (type(again), again.reason, again.request_id) == (kind, "timeout", "r")
    assert str(again) == "timeout: two attempts (request r)"


def test_a_refusal_survives_a_pickle_with_its_fields():
    error = Refused(422, "invalid_request", "d", "r", [FieldProblem("f", "rule", "1")])
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, Refused)
    assert again.errors == (FieldProblem("f", "rule", "1"),)
    assert str(again) == "422 invalid_request: d (request r)"
