"""The two laws of the reasoning budget, by values worked out by hand."""

import pytest

from service.batching.budget import WEIGHT, BudgetController, Forecast
from service.engine.rows import Timing


def controller(max_level=3, target_wait_s=0.010, recover_s=1.0, adaptive=True):
    return BudgetController(max_level, target_wait_s, recover_s, adaptive)


def levels(law, *waits):
    """The level after each run: (seconds waited, time)."""
    return [law.update(seconds, now) for seconds, now in waits]


def test_from_the_second_run_in_a_row_on_a_long_wait_lowers_the_level_by_one_down_to_none():
    law = controller()
    assert law.level == 3
    runs = [(0.011, 50.0 + 0.01 * run) for run in range(5)]
    assert levels(law, *runs) == [3, 2, 1, 0, 0]
    assert law.level == 0


def test_a_wait_of_just_the_target_lowers_nothing():
    assert levels(controller(), (0.010, 50.0), (0.010, 50.1)) == [3, 3]
    assert levels(controller(), (0.0101, 50.0), (0.0101, 50.1)) == [3, 2]


def test_between_half_and_the_whole_target_nothing_changes():
    law = controller()
    assert levels(law, (0.020, 50.0), (0.020, 50.0)) == [3, 2]
    runs = [(wait, 51.0 + run) for run, wait in enumerate((0.0051, 0.010, 0.006, 0.0099))]
    assert levels(law, *runs) == [2, 2, 2, 2]  # four seconds of it
    assert levels(law, (0.005, 54.9), (0.005, 55.0)) == [2, 3]  # half is calm: a second after 54


def test_it_rises_by_one_after_every_second_of_calm():
    law = controller()
    levels(law, *[(0.020, 50.0)] * 4)
    runs = [(0.0, 50.0 + tenths / 10) for tenths in range(1, 36)]
    found = levels(law, *runs)
    assert found == [0] * 9 + [1] * 10 + [2] * 10 + [3] * 6


def test_seconds_of_calm_add_up_whenever_the_runs_come():
    law = controller()
    levels(law, *[(0.020, 50.0)] * 4)
    assert levels(law, (0.0, 51.9), (0.0, 52.1), (0.0, 52.9), (0.0, 53.0)) == [1, 2, 2, 3]


def test_a_list_that_waited_starts_the_calm_anew():
    law = controller()
    levels(law, *[(0.020, 50.0)] * 3)
    runs = (0.0, 50.9), (0.006, 50.94), (0.006, 50.95), (0.0, 51.9), (0.0, 51.96)
    assert levels(law, *runs) == [1, 1, 1, 1, 2]


def test_a_stall_that_delays_one_run_neither_lowers_the_level_nor_ends_the_calm():
    law = controller()
    assert levels(law, (0.0, 50.0), (5.0, 55.0), (0.001, 55.1), (5.0, 61.0)) == [3] * 4
    levels(law, *[(0.020, 70.0)] * 2)
    assert levels(law, (0.0, 70.5), (5.0, 70.9), (0.0, 71.0)) == [1, 1, 2]


def test_after_an_idle_time_it_has_risen_by_all_of_its_seconds():
    law = controller()
    levels(law, *[(0.020, 50.0)] * 4)
    assert levels(law, (0.0, 52.5)) == [2]
    law = controller()
    levels(law, *[(0.020, 50.0)] * 4)
    assert levels(law, (0.0, 5000.0)) == [3]  # and no further
    assert levels(law, *[(0.020, 5000.0)] * 2) == [3, 2]
    assert levels(law, (0.0, 5000.9)) == [2]  # what was calm before has been used


def test_a_long_calm_at_the_top_is_not_saved_up():
    law = controller()
    runs = (0.0, 10.0), (0.0, 1000.0), (0.020, 1000.1), (0.020, 1000.1)
    assert levels(law, *runs) == [3, 3, 3, 2]
    assert levels(law, (0.0, 1000.2), (0.0, 1001.0), (0.0, 1001.2)) == [2, 2, 3]


def test_one_that_does_not_adapt_stays_where_it_is():
    law = controller(adaptive=False)
    assert levels(law, *[(5.0, 50.0)] * 4, (0.0, 60.0)) == [3] * 5
    assert law.level == 3


def test_a_graph_without_reasoning_has_but_one_level():
    assert levels(controller(max_level=0), (5.0, 50.0), (0.0, 90.0)) == [0, 0]


# At budget 0: 1 ms and 10 us a cell. At budget 3: 4 ms and 40 us a cell.
LINES = [
    Timing(0, 100, 0.002), Timing(0, 900, 0.010),
    Timing(3, 100, 0.008), Timing(3, 900, 0.040),
]  # fmt: skip


def test_a_forecast_is_a_line_over_cells_at_each_budget_and_between_budgets_too():
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
    # The twin: of lines without their fixed part it is another.
    assert forecast.seconds(0, 400) != pytest.approx(400 * 1e-5)


def test_a_line_never_falls_and_never_begins_below_nothing():
    flat = Forecast([Timing(0, 100, 0.004), Timing(0, 900, 0.002)])  # a slow first run
    assert flat.seconds(0, 10) == flat.seconds(0, 5000) == 0.004
    steep = Forecast([Timing(0, 100, 0.001), Timing(0, 200, 0.010)])
    assert steep.seconds(0, 0) == 0.0
    assert steep.seconds(0, 100) == pytest.approx(0.009)


def test_of_several_runs_at_a_budget_the_smallest_and_the_largest_make_its_line():
    forecast = Forecast([*LINES, Timing(0, 500, 0.5)])
    assert forecast.seconds(0, 500) == pytest.approx(0.006)


@pytest.mark.parametrize("timings", [LINES[:1], LINES[:3], [LINES[0], LINES[0]]])
def test_one_number_of_cells_makes_no_line(timings):
    with pytest.raises(ValueError, match="timed with 100 cells only"):
        Forecast(timings)


def test_a_graph_without_reasoning_has_one_line():
    forecast = Forecast(LINES[:2])
    assert forecast.seconds(0, 400) == pytest.approx(0.005)
    assert forecast.affordable(400, 1.0) == 0


def test_runs_at_one_budget_say_that_every_budget_takes_as_long():
    forecast = Forecast(LINES[2:])
    assert forecast.seconds(0, 400) == forecast.seconds(3, 400) == pytest.approx(0.020)
    assert not forecast.budget_matters
    assert Forecast(LINES).budget_matters


def test_every_run_corrects_the_forecast_by_a_tenth_of_how_far_it_was_off():
    forecast = Forecast(LINES)
    forecast.observe(Timing(0, 400, 0.010))  # twice what was expected
    assert forecast.seconds(0, 400) == pytest.approx(1.1 * 0.005)
    assert forecast.seconds(3, 900) == pytest.approx(1.1 * 0.040)  # of every budget and size
    forecast.observe(Timing(3, 400, 0.020))  # as the lines say: back by a tenth of the tenth
    assert forecast.seconds(0, 400) == pytest.approx((1.1 - 0.01) * 0.005)
    for _ in range(100):
        forecast.observe(Timing(0, 400, 0.0025))
    assert forecast.seconds(0, 400) == pytest.approx(0.5 * 0.005, rel=1e-3)


def test_one_run_counts_at_most_as_four_times_what_was_expected():
    forecast = Forecast(LINES)
    forecast.observe(Timing(0, 400, 60.0))  # the machine stood still
    assert forecast.seconds(0, 400) == pytest.approx((1 + 3 * WEIGHT) * 0.005)
    for _ in range(200):
        forecast.observe(Timing(0, 400, 60.0))
    assert forecast.seconds(0, 400) == pytest.approx(4 * 0.005)


def test_a_forecast_of_nothing_is_not_corrected():
    forecast = Forecast([Timing(0, 100, 0.0), Timing(0, 200, 0.0)])
    forecast.observe(Timing(0, 100, 5.0))
    assert forecast.seconds(0, 100) == 0.0


def test_what_is_affordable_is_the_largest_budget_that_is_over_in_time():
    forecast = Forecast(LINES)  # at 400 cells: 5, 10, 15, 20 ms
    for remaining_s, budget in (
        (1.0, 3), (0.0201, 3), (0.0199, 2), (0.0151, 2), (0.0149, 1), (0.0101, 1), (0.0099, 0),
        (0.004, 0), (0.0, 0), (-1.0, 0),
    ):  # fmt: skip
        assert forecast.affordable(400, remaining_s) == budget
    forecast.observe(Timing(0, 400, 0.010))  # now 5.5, 11, 16.5, 22 ms
    assert forecast.affordable(400, 0.0201) == 2
    assert forecast.affordable(400, 0.0221) == 3
