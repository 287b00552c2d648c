"""LightGBM's LambdaMART behind FastAPI, on the same features: the cost of a plain re-ranker."""

from __future__ import annotations

import json
import os
from pathlib import Path

import lightgbm
import numpy as np
import orjson
from fastapi import FastAPI

from model.data.dataset import Dataset
from model.data.lists import Arrays, Lists
from model.study.baselines import top
from model.study.lambdamart import LambdaMart, fit
from peers.fastapi_app import application, serve
from peers.work import ParsedRequest, Work, parse_options

DATA = Path("build/ranklens/warm")  # prepared by `make train`
FITTED = Path("build/peers/lambdamart.json")


def load_or_fit(data: Path, fitted: Path) -> LambdaMart:
    """Return the baseline of docs/reports/quality.md with seed 0, fitted once in a minute.

    Args:
        fitted: File that keeps the fitted ranker.
    """
    if not fitted.exists():
        dataset = Dataset(data)
        train, valid = (dataset.lists([split]).rankable() for split in ("train", "valid"))
        ranker = fit(train, valid, seed=0, vocabulary=dataset.featuriser.vocabulary_size)
        content = {
            "boosters": [booster.model_to_string() for booster in ranker.boosters],
            "rounds": ranker.rounds,
            "tokens": ranker.tokens.tolist(),
        }
        fitted.parent.mkdir(parents=True, exist_ok=True)
        unfinished = fitted.with_suffix(".tmp")
        unfinished.write_text(json.dumps(content), encoding="utf-8")
        unfinished.replace(fitted)
    content = json.loads(fitted.read_text(encoding="utf-8"))
    boosters = tuple(lightgbm.Booster(model_str=text) for text in content["boosters"])
    return LambdaMart(boosters, tuple(content["rounds"]), np.array(content["tokens"], np.int64))


def handle(work: Work, ranker: LambdaMart, content: bytes) -> bytes:
    """Return the response to a request body: parse and featurise as every peer, score and sort.

    The response has the same shape without the fields of reasoning, and a score in place of a
    log-probability.
    """
    request = work.parse(content)
    lists = lists_of(request)
    scores = ranker.score(lists)
    (slate,) = top(scores, lists.mask, request.row.slate_size)
    ids = request.candidates.ids
    entries = [
        {"id": ids[index], "position": position, "initial_position": index, "score": score}
        for position, (index, score) in enumerate(
            zip(slate.tolist(), scores[0, slate].round(6).tolist(), strict=True)
        )
    ]
    return orjson.dumps({"model": {"name": "lambdamart", "version": "1"}, "slate": entries})


def lists_of(request: ParsedRequest) -> Lists:
    """Convert one request to the form that the ranker reads."""
    numbers, tokens = request.row.numbers[None], request.row.tokens[None]
    mask = np.ones(numbers.shape[:2], np.bool_)
    arrays = Arrays(numbers, tokens, mask, np.zeros(mask.shape, np.float32))
    return Lists.of(arrays._asdict())


def create_app() -> FastAPI:
    """Return the application of one worker."""
    work, ranker = Work(parse_options(__doc__).bundle), load_or_fit(DATA, FITTED)
    work.whole_features = True
    return application(lambda content: handle(work, ranker, content))


if __name__ == "__main__":
    load_or_fit(DATA, FITTED)  # fitted once, before the workers read it
    os.environ["OMP_NUM_THREADS"] = "1"  # of LightGBM in each worker, which has one core
    serve("peers.lambdamart:create_app", __doc__)
