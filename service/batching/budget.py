"""Grant each run a budget of reasoning steps: quality gives way before responses do.

Two rules choose the budget of a run. Both depend on the queue alone, never on the model's output:

- *Level* (`BudgetController`) is the upper limit for every run, and equals the bundle's budget S
  without load. When the oldest list of two consecutive runs waited longer than the target, the
  level falls by one, and again with each further run that waited as long. It rises by one after
  every `recover_s` seconds without two consecutive waits above half of the target. Between half
  and the whole target the level stays, which gives the hysteresis. One long wait is not enough
  because a stall of the machine delays a single run; load delays many.
- *Forecast* (`Forecast`) is the expected time of a run in seconds, by budget and volume (slates x
  padded list size). It is measured at warm-up and corrected after every run. A run gets the
  largest budget that fits its earliest deadline. A list that would miss its deadline even at
  budget 0, after the lists ahead of it, is shed at admission. `Pace` says how much longer a queue
  takes than its runs.

If a run takes equally long at every budget (service/engine/cuda.py), neither rule lowers the budget
because that would save nothing. The forecast still sheds lists that would miss their deadline.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.engine.rows import Timing

WEIGHT = 0.1  # of the newest run in the forecast's correction, and in the pace
LONGEST_CYCLE = 8.0  # times its run: a cycle counts as no longer, so that a stall soon fades


class BudgetController:
    """Adapt the level of the budget to the queue wait."""

    def __init__(
        self, max_level: int, target_wait_s: float, recover_s: float, adaptive: bool
    ) -> None:
        self.max_level = self.level = max_level
        self._target_s, self._recover_s, self._adaptive = target_wait_s, recover_s, adaptive
        self._calm_since = self._previous_s = 0.0

    def update(self, queue_wait_s: float, now: float) -> int:
        """Return the level of the next run.

        queue_wait_s: the wait of its oldest list, in seconds; now: monotonic time, in seconds.
        """
        if not self._adaptive:
            return self.max_level
        wait_s, self._previous_s = min(queue_wait_s, self._previous_s), queue_wait_s
        if wait_s > self._target_s:
            self.level = max(0, self.level - 1)
        if wait_s > self._target_s / 2:
            self._calm_since = now
        elif self.level < self.max_level:
            rises = int((now - self._calm_since) / self._recover_s)
            if rises:
                self.level = min(self.max_level, self.level + rises)
                # The remainder of the elapsed time counts towards the next rise.
                self._calm_since += rises * self._recover_s
        return self.level


class Forecast:
    """Predict the seconds of a run: at each budget a line over its volume, times a correction."""

    def __init__(self, timings: Sequence[Timing]) -> None:
        """Fit the lines to runs at two budgets and, at each, of two volumes.

        Runs at one budget alone say that every budget takes as long. Raises ValueError unless each
        budget has two volumes.
        """
        self._lines: dict[int, tuple[float, float]] = {}
        for budget in sorted({timing.budget for timing in timings}):
            runs = sorted((t.volume, t.seconds) for t in timings if t.budget == budget)
            (few, short), (many, long) = runs[0], runs[-1]
            if few == many:
                raise ValueError(
                    f"timings of budget {budget}: all of volume {few}; a line needs two volumes"
                )
            slope = max(0.0, (long - short) / (many - few))
            self._lines[budget] = (max(0.0, short - slope * few), slope)
        self._low, self._high = min(self._lines), max(self._lines)
        for budget in range(self._low + 1, self._high):
            self._lines[budget] = self._between(budget)
        self._correction = 1.0

    @property
    def budget_matters(self) -> bool:
        """True if a smaller budget makes a run shorter."""
        return self._low < self._high

    def observe(self, timing: Timing) -> None:
        """Correct the forecast by a run; a run counts as at most four times its forecast."""
        expected = self._uncorrected(timing.budget, timing.volume)
        if expected > 0:
            ratio = min(4.0, timing.seconds / expected)
            self._correction += WEIGHT * (ratio - self._correction)

    def seconds(self, budget: int, volume: int) -> float:
        """Return the seconds that a run is expected to take."""
        return self._correction * self._uncorrected(budget, volume)

    def work_s(self, budget: int, volume: int, share: float) -> float:
        """Return the seconds that a row adds to a full run, before correction.

        share: its share of the slates of a full run, and so of the time that no volume causes.
        """
        fixed, slope = self._line(budget)
        return share * fixed + slope * volume

    def corrected(self, work_s: float) -> float:
        """Return the seconds that runs are expected to take whose rows add `work_s`."""
        return self._correction * work_s

    def affordable(self, volume: int, remaining_s: float) -> int:
        """Return the largest budget whose run ends within `remaining_s` seconds; at least 0."""
        fits = (b for b in range(self._high, 0, -1) if self.seconds(b, volume) <= remaining_s)
        return next(fits, 0)

    def _uncorrected(self, budget: int, volume: int) -> float:
        fixed, slope = self._line(budget)
        return fixed + slope * volume

    def _line(self, budget: int) -> tuple[float, float]:
        """Return the seconds of a run of no volume and the seconds per volume, before correction.

        They are interpolated between the two budgets that were measured.
        """
        line = self._lines.get(budget)
        if line is None:  # all runs were at one budget, or the budget is outside of them
            return self._lines[self._low] if self._low == self._high else self._between(budget)
        return line

    def _between(self, budget: int) -> tuple[float, float]:
        low, high = self._low, self._high
        share = (budget - low) / (high - low)
        (low_fixed, low_slope), (high_fixed, high_slope) = self._lines[low], self._lines[high]
        return (
            low_fixed + share * (high_fixed - low_fixed),
            low_slope + share * (high_slope - low_slope),
        )


class Pace:
    """Measures how much longer a queue takes than its runs: requests are parsed between them."""

    def __init__(self) -> None:
        self._cycle_s = self._run_s = 0.0

    @property
    def seconds_per_second(self) -> float:
        """Seconds that pass for each second of runs while lists wait; 1 before the first run."""
        return self._cycle_s / self._run_s if self._run_s else 1.0

    def observe(self, cycle_s: float, run_s: float) -> None:
        """Count a run and its cycle, from the end of the previous run to its own end.

        The cycle of a run for which the worker had to wait is the run itself.
        """
        if run_s > 0:
            cycle_s = min(max(cycle_s, run_s), LONGEST_CYCLE * run_s)
            self._cycle_s += WEIGHT * (cycle_s - self._cycle_s)
            self._run_s += WEIGHT * (run_s - self._run_s)
