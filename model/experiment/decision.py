"""The decision about a canary by the rules, from intervals that may be read at any time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from model.experiment.outcomes import Outcomes
from model.experiment.rules import Guard, Rules
from model.experiment.sequence import Trajectory, difference_over_time, share_over_time

Array = np.ndarray[Any, Any]
Action = Literal["promote", "roll back", "wait"]
SHARE_EFFECT = 0.02  # mixture of the share of users: a deviation that a wrong share would have
GUARD_EFFECT = 0.01  # mixture of shares of lists
MOST_CROSSED = 0.01  # share of users with lists of both versions
MS_PER_DAY = 86_400_000


@dataclass(frozen=True)
class Decision:
    """The action, and the reasons for it."""

    action: Action
    reasons: list[str]


def trajectories(outcomes: Outcomes, rules: Rules, share: float) -> dict[str, Trajectory]:
    """Return each metric over time; all intervals together have the risk of the rules.

    Args:
        share: of the users that the canary should have.
    """
    risk, is_canary = rules.risk / rules.intervals, outcomes.is_canary
    paths = {
        "reward": difference_over_time(outcomes.reward, is_canary, rules.reward.effect, risk),
        "users": share_over_time(is_canary, share, SHARE_EFFECT, risk),
    }
    for name, guard in guards_of(rules).items():
        values = getattr(outcomes, name)
        paths[name] = difference_over_time(values, is_canary, max(guard.rise, GUARD_EFFECT), risk)
    return paths


def guards_of(rules: Rules) -> dict[str, Guard]:
    """Return the guards that the rules have, by metric."""
    guards = {"degraded": rules.guards.degraded, "slow": rules.guards.slow}
    return {name: guard for name, guard in guards.items() if guard is not None}


def decide(paths: dict[str, Trajectory], outcomes: Outcomes, rules: Rules, until: int) -> Decision:
    """Decide by the latest intervals.

    Guards come first, then the controls without which the reward says nothing, then the reward.

    Args:
        until: now, ms since 1970 UTC.
    """
    over = until - outcomes.began > rules.longest_days * MS_PER_DAY
    end = f"the experiment is longer than {rules.longest_days:g} days"
    reasons = shortcomings(paths, outcomes, rules)
    if reasons and reasons[0].startswith("users"):  # no interval is right with so few
        return Decision("roll back", [*reasons, end]) if over else Decision("wait", reasons)
    for name, guard in guards_of(rules).items():
        low = float(paths[name].low[-1])
        if low > guard.rise:
            reason = f"{name}: the share rises by at least {low:.4f}, at most {guard.rise:g} may be"
            return Decision("roll back", [reason])
    if reasons:
        return Decision("roll back", [*reasons, end]) if over else Decision("wait", reasons)
    risen = [
        f"{name}: the share rises by {rise:.4f}, at most {guard.rise:g} may be"
        for name, guard in guards_of(rules).items()
        if (rise := float(paths[name].difference[-1])) > guard.rise
    ]
    low, high = float(paths["reward"].low[-1]), float(paths["reward"].high[-1])
    interval = f"reward: the interval of the difference is {low:.4f} to {high:.4f}"
    if high < rules.reward.roll_back_below:
        return Decision("roll back", [f"{interval}, below {rules.reward.roll_back_below:g}"])
    if low > rules.reward.promote_above:
        if not risen:
            return Decision("promote", [f"{interval}, above {rules.reward.promote_above:g}"])
        return Decision("roll back", [*risen, end]) if over else Decision("wait", risen)
    if not over:
        return Decision("wait", [interval])
    if rules.at_the_end == "promote" and risen:
        return Decision("roll back", [interval, *risen, end])
    return Decision(rules.at_the_end, [interval, end])


def shortcomings(paths: dict[str, Trajectory], outcomes: Outcomes, rules: Rules) -> list[str]:
    """Return the reasons for which nothing can be told yet."""
    users = paths["users"]
    canaries = int(outcomes.is_canary.sum())
    least = min(canaries, len(outcomes.is_canary) - canaries)
    if least < rules.least_users:
        return [f"users: each version needs at least {rules.least_users}, the smaller has {least}"]
    reasons = []
    low, high = float(users.low[-1]), float(users.high[-1])
    if not low <= 0.0 <= high:
        share, expected = float(users.means[-1, 1]), float(users.means[-1, 0])
        reasons.append(
            f"share: the canary has {share:.4f} of the users in place of {expected:g}; if its "
            "share was changed, state that moment as --since"
        )
    crossed = outcomes.crossed / (outcomes.crossed + len(outcomes.is_canary))
    if crossed > MOST_CROSSED:
        reasons.append(
            f"crossed: {crossed:.2%} of the users have lists of both versions, at most "
            f"{MOST_CROSSED:.0%} may; if the share was changed, state that moment as --since"
        )
    if not outcomes.reward.any():
        reasons.append("reward: no list has feedback of the types that count")
    return reasons
