"""The two laws of the reasoning budget, by values worked out by hand."""

import pytest

from service.batching.budget import LONGEST_CYCLE, WEIGHT, BudgetController, Forecast, Pace
from service.engine.rows import Timing


def controller(max_level=3, target_wait_s=0.010, recover_s=1.0, adaptive=True):
    return BudgetController(max_level, target_wait_s, recover_s, adaptive)


def levels(law, *waits):
    """Return the level after each run, of (queue wait in seconds, time)."""
    return [law.update(seconds, now) for seconds, now in waits]


def test_each_run_after_the_first_whose_wait_is_too_long_lowers_the_level_by_one_down_to_zero():
    law = controller()
    assert law.level == 3
    runs = [(0.011, 50.0 + 0.01 * run) for run in range(5)]
    assert levels(law, *runs) == [3, 2, 1, 0, 0]
    assert law.level == 0


def test_a_wait_of_exactly_the_target_does_not_lower_the_level():
    assert levels(controller(), (0.010, 50.0), (0.010, 50.1)) == [3, 3]
    assert levels(controller(), (0.0101, 50.0), (0.0101, 50.1)) == [3, 2]


def test_a_wait_between_half_and_the_whole_target_keeps_the_level():
    law = controller()
    assert levels(law, (0.020, 50.0), (0.020, 50.0)) == [3, 2]
    runs = [(wait, 51.0 + run) for run, wait in enumerate((0.0051, 0.010, 0.006, 0.0099))]
    assert levels(law, *runs) == [2, 2, 2, 2]  # four seconds of it
    assert levels(law, (0.005, 54.9), (0.005, 55.0)) == [2, 3]  # half is calm: a second after 54


def test_the_level_rises_by_one_after_every_second_of_calm():
    law = controller()
    levels(law, *[(0.020, 50.0)] * 4)
    runs = [(0.0, 50.0 + tenths / 10) for tenths in range(1, 36)]
    assert levels(law, *runs) == [0] * 9 + [1] * 10 + [2] * 10 + [3] * 6


def test_seconds_of_calm_add_up_at_whatever_times_runs_come():
    law = controller()
    levels(law, *[(0.020, 50.0)] * 4)
    assert levels(law, (0.0, 51.9), (0.0, 52.1), (0.0, 52.9), (0.0, 53.0)) == [1, 2, 2, 3]


def test_two_waits_over_half_the_target_start_the_calm_anew():
    law = controller()
    levels(law, *[(0.020, 50.0)] * 3)
    runs = (0.0, 50.9), (0.006, 50.94), (0.006, 50.95), (0.0, 51.9), (0.0, 51.96)
    assert levels(law, *runs) == [1, 1, 1, 1, 2]


def test_a_stall_that_delays_one_run_neither_lowers_the_level_nor_ends_the_calm():
    law = controller()
    assert levels(law, (0.0, 50.0), (5.0, 55.0), (0.001, 55.1), (5.0, 61.0)) == [3] * 4
    levels(law, *[(0.020, 70.0)] * 2)
    assert levels(law, (0.0, 70.5), (5.0, 70.9), (0.0, 71.0)) == [1, 1, 2]


def test_after_an_idle_time_the_level_has_risen_by_all_of_its_seconds():
    law = controller()
    levels(law, *[(0.020, 50.0)] * 4)
    assert levels(law, (0.0, 52.5)) == [2]
    law = controller()
    levels(law, *[(0.020, 50.0)] * 4)
    assert levels(law, (0.0, 5000.0)) == [3]  # and no further
    assert levels(law, *[(0.020, 5000.0)] * 2) == [3, 2]
    assert levels(law, (0.0, 5000.9)) == [2]  # earlier calm has been used


def test_a_long_calm_at_the_top_is_not_saved_up():
    law = controller()
    runs = (0.0, 10.0), (0.0, 1000.0), (0.020, 1000.1), (0.020, 1000.1)
    assert levels(law, *runs) == [3, 3, 3, 2]
    assert levels(law, (0.0, 1000.2), (0.0, 1001.0), (0.0, 1001.2)) == [2, 2, 3]


def test_a_controller_that_does_not_adapt_keeps_its_level():
    law = controller(adaptive=False)
    assert levels(law, *[(5.0, 50.0)] * 4, (0.0, 60.0)) == [3] * 5
    assert law.level == 3


def test_a_graph_without_reasoning_has_one_level():
    assert levels(controller(max_level=0), (5.0, 50.0), (0.0, 90.0)) == [0, 0]


# At budget 0: 1 ms and 10 us per candidate. At budget 3: 4 ms and 40 us per candidate.
LINES = [
    Timing(0, 100, 0.002), Timing(0, 900, 0.010),
    Timing(3, 100, 0.008), Timing(3, 900, 0.040),
]  # fmt: skip


def test_a_forecast_is_a_line_over_volume_at_each_budget_interpolated_between_budgets():
    forecast = Forecast(LINES)
    for budget, volume, seconds in (
        (0, 100, 0.002),
        (0, 900, 0.010),
        (0, 400, 0.005),
        (0, 0, 0.001),
        (3, 400, 0.020),
        (3, 2000, 0.084),
        (1, 400, 0.010),
        (2, 400, 0.015),
    ):
        assert forecast.seconds(budget, volume) == pytest.approx(seconds)
    # Without the fixed part of its line the forecast differs.
    assert forecast.seconds(0, 400) != pytest.approx(400 * 1e-5)


def test_a_line_never_falls_and_never_begins_below_zero():
    flat = Forecast([Timing(0, 100, 0.004), Timing(0, 900, 0.002)])  # a slow first run
    assert flat.seconds(0, 10) == flat.seconds(0, 5000) == 0.004
    steep = Forecast([Timing(0, 100, 0.001), Timing(0, 200, 0.010)])
    assert steep.seconds(0, 0) == 0.0
    assert steep.seconds(0, 100) == pytest.approx(0.009)


def test_the_smallest_and_the_largest_run_at_a_budget_make_its_line():
    forecast = Forecast([*LINES, Timing(0, 500, 0.5)])
    assert forecast.seconds(0, 500) == pytest.approx(0.006)


@pytest.mark.parametrize("timings", [LINES[:1], LINES[:3], [LINES[0], LINES[0]]])
def test_a_budget_timed_at_one_volume_is_refused(timings):
    with pytest.raises(ValueError, match="all of volume 100; a line needs two volumes"):
        Forecast(timings)


def test_a_graph_without_reasoning_has_one_line():
    forecast = Forecast(LINES[:2])
    assert forecast.seconds(0, 400) == pytest.approx(0.005)
    assert forecast.affordable(400, 1.0) == 0


def test_a_forecast_of_one_budget_holds_for_every_budget():
    forecast = Forecast(LINES[2:])
    assert forecast.seconds(0, 400) == forecast.seconds(3, 400) == pytest.approx(0.020)
    assert not forecast.budget_matters
    assert Forecast(LINES).budget_matters


def test_every_run_corrects_the_forecast_by_a_tenth_of_its_error():
    forecast = Forecast(LINES)
    forecast.observe(Timing(0, 400, 0.010))  # twice what was expected
    assert forecast.seconds(0, 400) == pytest.approx(1.1 * 0.005)
    assert forecast.seconds(3, 900) == pytest.approx(1.1 * 0.040)  # at every budget and volume
    forecast.observe(Timing(3, 400, 0.020))  # as the lines say: back by a tenth of the tenth
    assert forecast.seconds(0, 400) == pytest.approx((1.1 - 0.01) * 0.005)
    for _ in range(100):
        forecast.observe(Timing(0, 400, 0.0025))
    assert forecast.seconds(0, 400) == pytest.approx(0.5 * 0.005, rel=1e-3)


def test_one_run_counts_as_at_most_four_times_its_forecast():
    forecast = Forecast(LINES)
    forecast.observe(Timing(0, 400, 60.0))  # the machine stood still
    assert forecast.seconds(0, 400) == pytest.approx((1 + 3 * WEIGHT) * 0.005)
    for _ in range(200):
        forecast.observe(Timing(0, 400, 60.0))
    assert forecast.seconds(0, 400) == pytest.approx(4 * 0.005)


def test_a_forecast_of_zero_seconds_is_not_corrected():
    forecast = Forecast([Timing(0, 100, 0.0), Timing(0, 200, 0.0)])
    forecast.observe(Timing(0, 100, 5.0))
    assert forecast.seconds(0, 100) == 0.0


def test_the_affordable_budget_is_the_largest_whose_run_ends_in_time():
    forecast = Forecast(LINES)  # at volume 400: 5, 10, 15, 20 ms
    for remaining_s, budget in (
        (1.0, 3), (0.0201, 3), (0.0199, 2), (0.0151, 2), (0.0149, 1), (0.0101, 1), (0.0099, 0),
        (0.004, 0), (0.0, 0), (-1.0, 0),
    ):  # fmt: skip
        assert forecast.affordable(400, remaining_s) == budget
    forecast.observe(Timing(0, 400, 0.010))  # now 5.5, 11, 16.5, 22 ms
    assert forecast.affordable(400, 0.0201) == 2
    assert forecast.affordable(400, 0.0221) == 3


def test_the_work_of_a_row_is_its_volume_and_its_share_of_the_fixed_time_of_a_run():
    forecast = Forecast(LINES)
    assert forecast.work_s(0, 400, 1.0) == pytest.approx(forecast.seconds(0, 400))
    assert forecast.work_s(0, 400, 0.25) == pytest.approx(0.00025 + 0.004)
    assert forecast.work_s(3, 400, 0.25) == pytest.approx(0.001 + 0.016)
    assert 4 * forecast.work_s(1, 100, 0.25) == pytest.approx(forecast.seconds(1, 400))


def test_runs_correct_the_time_of_the_work_too():
    forecast = Forecast(LINES)
    forecast.observe(Timing(0, 400, 0.010))
    assert forecast.corrected(0.005) == pytest.approx(forecast.seconds(0, 400))
    assert forecast.corrected(0.005) == pytest.approx(0.005 * (1 + WEIGHT))


def test_the_pace_is_the_time_of_cycles_over_that_of_their_runs():
    pace = Pace()
    assert pace.seconds_per_second == 1.0
    for _ in range(100):
        pace.observe(cycle_s=0.006, run_s=0.004)
    assert pace.seconds_per_second == pytest.approx(1.5)
    for _ in range(100):
        pace.observe(cycle_s=0.004, run_s=0.004)  # of a worker that waited for rows
    assert pace.seconds_per_second == pytest.approx(1.0, abs=1e-4)


def test_a_cycle_is_no_shorter_than_its_run_and_a_stall_counts_as_a_few_runs():
    pace = Pace()
    pace.observe(cycle_s=0.001, run_s=0.004)
    assert pace.seconds_per_second == pytest.approx(1.0)
    pace = Pace()
    pace.observe(cycle_s=30.0, run_s=0.004)
    assert pace.seconds_per_second == pytest.approx(LONGEST_CYCLE)
    pace.observe(cycle_s=0.004, run_s=0.0)  # a clock that did not move
    assert pace.seconds_per_second == pytest.approx(LONGEST_CYCLE)
