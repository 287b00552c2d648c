"""The comparison of one slate: the refusal names the place, the figure and both values."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from export.verify import Agreement, VerificationError, compare
from model.network.reasoning import Decoded
from service.engine.constraints import SlateConstraints
from service.engine.rows import Row, Slate, SlateSampling

K, N = 2, 3
PLACE = "generator.onnx, Case(size=3, batch=1, budget=1, threshold=0.5), row 0"
ROW = Row(
    np.zeros((N, 1), np.float32), np.zeros((N, 1), np.int64), K, 1, 0.5, 1.5, 0.7,
    SlateConstraints.none(N, K),
)  # fmt: skip
SLATE = Slate(
    np.array([2, 0]),
    np.array([-0.25, -0.5], np.float32),
    np.array([1.0, 0.9], np.float32),
    np.array([0.8, 0.7], np.float32),
    np.array([1, 1]),
)
LOGITS = torch.tensor([[[0.0, 1.0, 3.0], [2.0, 1.0, -1e9]]])
EXPECTED = Decoded(
    torch.tensor([[2, 0]]),
    torch.tensor([[-0.25, -0.5]]),
    torch.tensor([[1.0, 0.9]]),
    torch.tensor([[0.8, 0.7]]),
    torch.tensor([[1, 1]]),
    torch.ones(1, K, 1, dtype=torch.bool),
    LOGITS,
    LOGITS,
)


@pytest.mark.parametrize(
    ("value", "size"), [(0.95, "5.00e-02"), (np.nan, "nan")], ids=["larger", "NaN"]
)
def test_a_figure_beyond_the_tolerance_is_refused_with_position_values_and_advice(value, size):
    slate = dataclasses.replace(SLATE, entropy_before=np.array([1.0, value], np.float32))
    message = (
        f"{PLACE}, position 1: entropy_before is 0.900000 in torch and {value:.6f} in onnxruntime; "
        f"may differ by 0.0001, got {size}. Run pytest tests/export/graph"
    )
    with pytest.raises(VerificationError, match=re.escape(message)):
        Agreement().add(compare(EXPECTED, 0, ROW, slate, PLACE), PLACE)


def test_a_difference_within_the_tolerance_is_counted_as_the_largest():
    slate = dataclasses.replace(SLATE, logprob=np.array([-0.25005, -0.5], np.float32))
    agreement = Agreement()
    agreement.add(compare(EXPECTED, 0, ROW, SLATE, PLACE), PLACE)
    agreement.add(compare(EXPECTED, 0, ROW, slate, PLACE), PLACE)
    assert (agreement.slates, agreement.ties) == (2, 0)
    assert agreement.largest_difference == pytest.approx(5e-5, rel=1e-2)


def test_other_items_are_refused_unless_noise_or_a_tie_chose_them():
    slate = dataclasses.replace(SLATE, indices=np.array([2, 1]))
    message = f"{PLACE}, position 1 of a list of 3: torch chose [2, 0] after [1, 1] steps"
    with pytest.raises(VerificationError, match=re.escape(message)):
        compare(EXPECTED, 0, ROW, slate, PLACE)
    sampled = dataclasses.replace(ROW, sampling=SlateSampling(2, 0))
    assert compare(EXPECTED, 0, sampled, slate, PLACE) is None
    tied = EXPECTED._replace(logits=torch.tensor([[[0.0, 1.0, 3.0], [2.0, 2.0, -1e9]]]))
    assert compare(tied, 0, ROW, slate, PLACE) is None
