"""LightGBM's LambdaMART behind FastAPI, on the same features: what a plain re-ranker costs."""

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
from peers.work import Asked, Work, arguments

DATA = Path("build/ranklens/warm")  # what `make train` prepares
FITTED = Path("build/peers/lambdamart.json")


def trained(data: Path, kept: Path) -> LambdaMart:
    """The baseline of docs/reports/quality.md, of seed 0; fitted in a minute where not `kept`."""
    if not kept.exists():
        dataset = Dataset(data)
        lists = [dataset.lists([split]).rankable() for split in ("train", "valid")]
        ranker = fit(*lists, seed=0, vocabulary=dataset.featuriser.vocabulary_size)
        told = {
            "boosters": [booster.model_to_string() for booster in ranker.boosters],
            "rounds": ranker.rounds,
            "tokens": ranker.tokens.tolist(),
        }
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(".tmp")
        unfinished.write_text(json.dumps(told), encoding="utf-8")
        unfinished.replace(kept)
    told = json.loads(kept.read_text(encoding="utf-8"))
    boosters = tuple(lightgbm.Booster(model_str=text) for text in told["boosters"])
    return LambdaMart(boosters, tuple(told["rounds"]), np.array(told["tokens"], np.int64))


def answer(work: Work, ranker: LambdaMart, content: bytes) -> bytes:
    """From a body to its answer: parse and featurise as all do, then score and sort.

    It has the same shape less what only reasoning has, and a score instead of a log-probability.
    """
    asked = work.parse(content)
    lists = listed(asked)
    scores = ranker.score(lists)
    (slate,) = top(scores, lists.mask, asked.row.slate_size)
    ids = asked.request.ids
    entries = [
        {"id": ids[index], "position": position, "initial_position": index, "score": score}
        for position, (index, score) in enumerate(
            zip(slate.tolist(), scores[0, slate].round(6).tolist(), strict=True)
        )
    ]
    return orjson.dumps({"model": {"name": "lambdamart", "version": "1"}, "slate": entries})


def listed(asked: Asked) -> Lists:
    """One request as the ranker reads lists."""
    numbers, tokens = asked.row.numbers[None], asked.row.tokens[None]
    mask = np.ones(numbers.shape[:2], np.bool_)
    arrays = Arrays(numbers, tokens, mask, np.zeros(mask.shape, np.float32))
    return Lists.of(arrays._asdict())


def create_app() -> FastAPI:
    """The application of one worker."""
    work, ranker = Work(arguments(__doc__).bundle), trained(DATA, FITTED)
    return application(lambda content: answer(work, ranker, content))


if __name__ == "__main__":
    trained(DATA, FITTED)  # once, before workers read it
    os.environ["OMP_NUM_THREADS"] = "1"  # LightGBM's in each worker, which has one core
    serve("peers.lambdamart:create_app", __doc__)
