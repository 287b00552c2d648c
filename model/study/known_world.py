"""A world whose users are simulated: tastes and appeal drift, new items arrive, the law is known.

A list is a request of one user on one day. The user clicks by the law of `ClickModel`, in which the
appeal of an item is

    appeal = base + taste of the user for its topic + season of its style + quality of the item

- The taste of a user turns slowly with the days. It shows in the user's history alone.
- The season of a style comes and goes. It is the same for all users, so only training learns it.
- Each day some items leave and new ones arrive, some in styles that did not exist before.

All draws of a day depend on seed and day alone, and clicks of a list on uniform numbers that are
its own. So different policies are compared on the same lists with the same luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from model.study.click_model import ClickModel

Array = np.ndarray[Any, Any]
TOPICS = 8
CANDIDATES, SLATE = 8, 4  # of a list, and displayed
STYLES, LATER_STYLES = 4, 2
PERIOD_DAYS = 24.0  # of a season
SEASON = 1.8  # amplitude in logits
TURN = 0.06  # radians by which tastes turn in a day
TASTE, QUALITY, BASE = 1.0, 0.4, -0.8  # deviations in logits, and the mean appeal
NOISE = 0.3  # deviation of a rating from the quality of its item
# Weaker effects of order than in `ClickModel`, so that appeal, which drifts, decides more. Few
# users leave early: where they do, labels of the first positions flatter any displayed order.
LAW = ClickModel(fatigue=1.0, attraction=1.5, abandon=0.15)
SCHEMA = f"""name: world
events: {{click: {{label: 1}}, pass: {{label: 0}}}}
passed_over: {{rule: all, settle: 1h}}
history: {{limit: 48, kernels: [topic]}}
features:
  - {{name: topic, of: item, kind: vector, width: {TOPICS}}}
  - {{name: style, of: item, kind: category}}
  - {{name: rating, of: item, kind: number}}
"""


@dataclass(frozen=True)
class Size:
    """Numbers of users, of items on sale, of items that arrive and leave in a day, and of lists.

    rounds: blocks of the lists of a day; a user has at most one list in a round.
    """

    users: int = 240
    items: int = 120
    arrivals: int = 6
    lists: int = 720
    rounds: int = 12


@dataclass(frozen=True)
class Lists:
    """The lists of a day: L lists of N candidates, of which K are displayed.

    user int [L]; item int [L, N], numbers of items; topic float [L, N, T]; appeal float [L, N], in
    logits; luck float [L, K], uniform numbers that decide the click at each position; round int
    [L].
    """

    user: Array
    item: Array
    topic: Array
    appeal: Array
    luck: Array
    round: Array

    def __len__(self) -> int:
        return len(self.user)


class KnownWorld:
    """The users, the items and the law, from day -infinity to day `days` - 1."""

    def __init__(self, seed: int, size: Size, days: int) -> None:
        self.size, self._seed = size, seed
        draw = np.random.default_rng([seed, 0])
        count = size.items + size.arrivals * days
        self._topic = draw.integers(TOPICS, size=count)
        self._style = draw.integers(STYLES, size=count)
        is_new = np.arange(count) >= size.items
        later = STYLES + draw.integers(LATER_STYLES, size=count)
        self._style = np.where(is_new & (draw.random(count) < 0.5), later, self._style)
        self._quality = QUALITY * draw.standard_normal(count)
        self._rating = self._quality + NOISE * draw.standard_normal(count)
        self._tastes = TASTE * draw.standard_normal((2, size.users, TOPICS))

    def on_sale(self, day: int) -> Array:
        """Return the numbers of the items that are on sale on a day, int [items]."""
        first = self.size.arrivals * max(day, 0)
        return np.arange(first, first + self.size.items)

    def arrivals(self, day: int) -> Array:
        """Return the numbers of the items that arrive on a day; none before day 1."""
        before = self.on_sale(day - 1)
        return np.setdiff1d(self.on_sale(day), before)

    def features(self, item: int) -> dict[str, Any]:
        """Return the features of an item, as the schema declares them."""
        topic = np.eye(TOPICS)[self._topic[item]].tolist()
        rating = float(self._rating[item])
        return {"topic": topic, "style": f"style{self._style[item]}", "rating": rating}

    def lists(self, day: int) -> Lists:
        """Return the lists of a day, in the order of its rounds."""
        size = self.size
        draw = np.random.default_rng([self._seed, 1, day + 1000])
        per_round = size.lists // size.rounds
        user = np.concatenate(
            [draw.permutation(size.users)[:per_round] for _ in range(size.rounds)]
        )
        order = np.argsort(draw.random((len(user), size.items)), axis=1)[:, :CANDIDATES]
        item = self.on_sale(day)[order]
        angle = TURN * day
        taste = np.cos(angle) * self._tastes[0] + np.sin(angle) * self._tastes[1]
        topic = self._topic[item]
        season = SEASON * np.cos(
            2.0 * np.pi * (day / PERIOD_DAYS - self._style[item] / (STYLES + LATER_STYLES))
        )
        appeal = BASE + taste[user[:, None], topic] + season + self._quality[item]
        return Lists(
            user, item, np.eye(TOPICS)[topic], appeal, draw.random((len(user), SLATE)),
            np.repeat(np.arange(size.rounds), per_round),
        )  # fmt: skip

    def expected_clicks(self, lists: Lists, slates: Array) -> Array:
        """Return the expected clicks float [L] of slates int [L, K], indices of candidates."""
        return LAW.expected_clicks(lists.appeal, lists.topic, slates)

    def clicks(self, lists: Lists, slates: Array) -> Array:
        """Return the clicks bool [L, K] at the positions of slates int [L, K]."""
        examined, clicked = LAW.clicks(lists.appeal, lists.topic, slates)
        return np.asarray(lists.luck < examined * clicked)

    def best(self, lists: Lists) -> Array:
        """Return the largest expected clicks float [L] that any slate of a list has."""
        _, worth = LAW.best_slates(lists.appeal, lists.topic, SLATE)
        return worth
