"""Pairs of policies of known difference, in the simulated environment of model.study.click_model.

The population is finite: its users are logged with replacement, and their lists are ranked by
every slate, so that the value of a policy is a sum without sampling error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model.offline.decisions import Decisions, Target
from model.study.click_model import CANDIDATES, ITEMS, SLATE, TOPICS, ClickModel

Array = np.ndarray[Any, Any]
LISTS_PER_USER = 3


@dataclass(frozen=True)
class WorldPolicy:
    """A policy that samples each position by a softmax of a linear score.

    Args:
        appeal, fatigue, attraction: weights of the terms of the click model, in logits.
        temperature: of the softmax.
        taste: further score of each topic, float64 [T], the same for every user.
    """

    appeal: float
    fatigue: float
    attraction: float
    temperature: float
    taste: Array


@dataclass
class Population:
    """Users with LISTS_PER_USER lists each: appeal float64 [C, N], topic float64 [C, N, T].

    List c belongs to user c // LISTS_PER_USER.
    """

    appeal: Array
    topic: Array
    length: int = SLATE
    law: ClickModel = field(default_factory=ClickModel)
    _clicks: Array | None = None

    @classmethod
    def draw(cls, users: int, seed: int) -> Population:
        """Draw users and lists by the law of `prepare_simulation`."""
        draw, lists = np.random.default_rng(seed), users * LISTS_PER_USER
        topics = np.eye(TOPICS)[draw.integers(TOPICS, size=ITEMS)]
        quality = 0.5 * draw.standard_normal(ITEMS)
        items = np.argsort(draw.random((lists, ITEMS)), axis=1)[:, :CANDIDATES]
        taste = draw.standard_normal((users, TOPICS)).repeat(LISTS_PER_USER, axis=0)
        appeal = quality[items] + (topics[items] @ taste[:, :, None])[:, :, 0] - 0.5
        return cls(appeal, topics[items])

    @property
    def users(self) -> int:
        """Number of users."""
        return len(self.appeal) // LISTS_PER_USER

    def value(self, policy: WorldPolicy) -> float:
        """Return the expected clicks of a policy over the population, by all slates."""
        *_, (joint, free) = self._levels(policy)
        return float((joint[:, free] * self.clicks_of_all()).sum() / len(self.appeal))

    def marginals(self, policy: WorldPolicy) -> Array:
        """Return the probability float64 [C, K, N] that a candidate is at a position."""
        return np.stack([joint.sum(axis=1) for joint, _ in self._levels(policy)], axis=1)

    def _levels(self, policy: WorldPolicy) -> Iterator[tuple[Array, Array]]:
        """Yield the probability [C, P, N] of each prefix and next item, and the free ones [P, N].

        Free entries in order are the prefixes of the next position, as itertools has them.
        """
        lists, size = self.appeal.shape
        probability = np.ones((lists, 1))
        for k in range(self.length):
            prefixes = np.array(list(itertools.permutations(range(size), k)), np.int64)
            choice = self.choices(policy, np.arange(lists)[:, None], prefixes[None])
            free = np.ones((len(prefixes), size), np.bool_)
            np.put_along_axis(free, prefixes, False, axis=1)
            joint = probability[:, :, None] * choice
            yield joint, free
            probability = joint[:, free]

    def clicks_of_all(self) -> Array:
        """Return the expected clicks float64 [C, S] of all slates of each list."""
        if self._clicks is None:
            lists, size = self.appeal.shape
            self._clicks = np.stack(
                [
                    self.law.expected_clicks(
                        self.appeal,
                        self.topic,
                        np.broadcast_to(np.array(slate), (lists, len(slate))),
                    )
                    for slate in itertools.permutations(range(size), self.length)
                ],
                axis=1,
            )
        return self._clicks

    def choices(self, policy: WorldPolicy, lists: Array, prefixes: Array) -> Array:
        """Return the probability float64 [r, P, N] of each candidate after prefixes.

        lists: int64 [r, 1]; prefixes: int64 [r or 1, P, k].
        """
        topic = self.topic[lists[:, 0]]
        score = policy.appeal * self.appeal[lists[:, 0]] + topic @ policy.taste
        prefixes = np.broadcast_to(prefixes, (len(lists), *prefixes.shape[1:]))
        summary = np.zeros((*prefixes.shape[:2], topic.shape[2]))
        last = np.zeros_like(summary)
        for k in range(prefixes.shape[2]):
            last = topic[np.arange(len(lists))[:, None], prefixes[:, :, k]]
            summary = self.law.decay * summary + last
        slope = policy.attraction * np.roll(last, 1, axis=2) - policy.fatigue * summary
        logits = (score[:, None] + slope @ topic.transpose(0, 2, 1)) / policy.temperature
        np.put_along_axis(logits, prefixes, -np.inf, axis=2)
        weight = np.exp(logits - logits.max(axis=2, keepdims=True))
        return np.asarray(weight / weight.sum(axis=2, keepdims=True))

    def log(self, policy: WorldPolicy, users: int, seed: int) -> tuple[Decisions, Array]:
        """Return decisions of `users` users drawn with replacement, and the list [R] of each."""
        draw = np.random.default_rng(seed)
        chosen = draw.integers(self.users, size=users)
        lists = (chosen[:, None] * LISTS_PER_USER + np.arange(LISTS_PER_USER)).ravel()
        slate = np.zeros((len(lists), 0), np.int64)
        logprob = np.zeros((len(lists), self.length))
        for k in range(self.length):
            choice = self.choices(policy, lists[:, None], slate[:, None])[:, 0]
            scores = np.cumsum(choice, axis=1) / choice.sum(axis=1, keepdims=True)
            following = (draw.random((len(lists), 1)) >= scores).sum(axis=1)
            slate = np.hstack([slate, following[:, None]])
            logprob[:, k] = np.log(choice[np.arange(len(lists)), following])
        examined, clicked = self.law.clicks(self.appeal[lists], self.topic[lists], slate)
        reward = (draw.random(slate.shape) < examined * clicked).astype(np.float64)
        features = np.concatenate([self.appeal[lists][:, :, None], self.topic[lists]], axis=2)
        user = np.arange(users).repeat(LISTS_PER_USER)
        return Decisions(slate, logprob, reward, user, features), lists

    def target(self, name: str, policy: WorldPolicy, decisions: Decisions, lists: Array) -> Target:
        """Return a policy on the decisions of a log, lists int64 [R] of the population."""
        parts = [
            self.choices(policy, lists[:, None], decisions.slate[:, None, :k])[:, 0]
            for k in range(self.length)
        ]
        return Target.of(name, np.stack(parts, axis=1), decisions)


def draw_pair(seed: int) -> tuple[WorldPolicy, WorldPolicy]:
    """Return a logging policy and another that departs from it, a little or a lot."""
    draw = np.random.default_rng(seed)
    weights = draw.uniform([0.3, 0.0, 0.0], [1.2, 2.0, 3.0])
    temperature, taste = draw.uniform(0.7, 1.5), 0.2 * draw.standard_normal(TOPICS)
    size = draw.uniform(0.0, 1.0)
    changed = weights + size * draw.normal(0.0, [0.4, 0.8, 1.2])
    other = taste + size * 0.3 * draw.standard_normal(TOPICS)
    warmer = temperature * float(np.exp(size * draw.normal(0.0, 0.2)))
    pair = ((weights, temperature, taste), (changed, warmer, other))
    first, second = (
        WorldPolicy(float(of[0]), float(of[1]), float(of[2]), warmth, topics)
        for of, warmth, topics in pair
    )
    return first, second
