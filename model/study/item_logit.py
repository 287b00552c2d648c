"""Item effects by ridge logistic regression, with user and position effects separated out."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from scipy.optimize import minimize
from scipy.sparse import csr_array, hstack

from model.data.dataset import Dataset
from service.engine.features.schema import NUMBER_KINDS

Array = np.ndarray[Any, Any]

# Ridge strengths, chosen by NDCG@10 on the validation lists of RankLens, warm. Each position has
# thousands of impressions and needs almost none.
LIST, POSITION, ITEM, METADATA = 0.5, 1e-3, 6.0, 30.0


def item_effects(dataset: Dataset) -> dict[str, float]:
    """Return the log-odds of a like for every known item, up to a constant, from train lists alone.

        logit p(like of item i at position t in list l) = list_l + position_t + w . x_i + item_i

    x_i is the item's metadata (numbers and tokens, no statistics), so the ridge on item_i shrinks a
    rare item to the prediction of its metadata, and an item without metadata to the mean. The
    intercept list_l absorbs the user's generosity and position_t the display bias; the returned
    effect is w . x_i + item_i. A graded gain counts as the probability of a like.
    """
    train = dataset.rows.filter(pl.col("split") == "train").collect()
    index = {item: row for row, item in enumerate(dataset.featuriser.items.ids)}
    items = np.array([index[item] for item in train["item_id"].to_list()])
    metadata = _metadata(dataset)
    request = train["request_id"].rank("dense").to_numpy() - 1
    position = train["position"].rank("dense").to_numpy() - 1
    blocks = [_one_hot(request), _one_hot(position), _one_hot(items, len(index)), metadata[items]]
    design = hstack(blocks, format="csr")
    ridge = np.repeat((LIST, POSITION, ITEM, METADATA), [block.shape[1] for block in blocks])
    gains = dataset.featuriser.schema.label.gain(train["label"].to_numpy()).astype(np.float64)

    def objective(weights: Array) -> tuple[float, Array]:
        logit = design @ weights
        loss = np.logaddexp(0.0, logit).sum() - gains @ logit + 0.5 * ridge @ weights**2
        probability = 1.0 / (1.0 + np.exp(-logit))
        return float(loss), design.T @ (probability - gains) + ridge * weights

    start = np.zeros(design.shape[1])
    weights = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    first = blocks[0].shape[1] + blocks[1].shape[1]
    item_weights, slope = np.split(weights[first:], [len(index)])
    return dict(zip(index, (item_weights + metadata @ slope).tolist(), strict=True))


def _metadata(dataset: Dataset) -> csr_array:
    """Return standardised numbers and token indicators of every item, sparse [I, M]."""
    items, schema = dataset.featuriser.items, dataset.featuriser.schema
    kinds = [f.kind for f in schema.features if f.of == "item" and f.kind in NUMBER_KINDS]
    numbers = items.numbers[:, [kind == "number" for kind in kinds]]
    rows, slots = np.nonzero(items.tokens)
    shape = (len(items.ids), dataset.featuriser.vocabulary_size)
    tokens = csr_array((np.ones(len(rows)), (rows, items.tokens[rows, slots])), shape=shape)
    return hstack([csr_array(numbers.astype(np.float64)), tokens], format="csr")


def _one_hot(index: Array, width: int | None = None) -> csr_array:
    shape = (len(index), width or int(index.max()) + 1)
    return csr_array((np.ones(len(index)), (np.arange(len(index)), index)), shape=shape)
