"""Histories and ids that are checked as a whole: the same values as pydantic's, and no others."""

import math

import pytest
from pydantic import TypeAdapter, ValidationError

from service.http.ids import Id
from service.http.parsing import labelled
from service.http.plain import are_plain_ids, plain_history
from service.http.schemas import HistoryEntry

ENTRIES, IDS = TypeAdapter(list[HistoryEntry]), TypeAdapter(list[Id])


def entries(*labels, item="1"):
    return [{"id": item, "label": label} for label in labels]


@pytest.mark.parametrize("labels", [(0,), (1,), (0.5, 1, 0.0), (-0.0,), (1.0,) * 48])
def test_a_plain_history_has_the_ids_and_labels_that_pydantic_reads(labels):
    history = entries(*labels)
    plain = plain_history(history)
    assert plain == labelled(ENTRIES.validate_python(history))
    assert all(type(label) is float for _, label in plain)


@pytest.mark.parametrize("label", [math.nan, math.inf, -0.1, 1.1, True, "1", None, -1, 2, 10**400])
def test_a_label_that_pydantic_refuses_or_changes_is_not_plain(label):
    assert plain_history(entries(0.5, label)) is None
    assert plain_history(entries(label, 0.5)) is None


@pytest.mark.parametrize(
    "value",
    [
        None, [], {}, "1", ["1"], [{"id": "1"}], [{"id": "1", "features": {}}],
        [{"id": "1", "label": 1, "features": {}}], [{"id": "1", "label": 1}, "1"],
        [{"id": "1", "like": 1}],
    ],
)  # fmt: skip
def test_a_history_of_another_form_is_left_to_pydantic(value):
    assert plain_history(value) is None


@pytest.mark.parametrize("item", ["1", "~", "a" * 256, "x-1/2"])
def test_a_plain_id_is_the_id_that_pydantic_reads(item):
    assert are_plain_ids(["0", item])
    assert IDS.validate_python([item]) == [item]


@pytest.mark.parametrize(
    "item", ["", " ", " 1", "1 ", "a b", "a\nb", "\n", "a" * 257, "é", 1, None]
)
def test_an_id_that_is_invalid_or_unusual_is_left_to_pydantic(item):
    assert not are_plain_ids(["0", item])
    assert not are_plain_ids([item, "0"])
    assert plain_history(entries(1, item=item)) is None


def test_an_id_that_only_blanks_surround_is_still_read_by_pydantic():
    with pytest.raises(ValidationError):
        IDS.validate_python([" "])
    assert IDS.validate_python([" 1"]) == ["1"]
