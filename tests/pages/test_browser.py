"""Pages of reports in Chromium: they sort by keyboard, load nothing, and pass axe."""

import pytest

from pages.reports import write_reports
from tests.support.browsers import Watched, chromium, require_chromium, serious_problems

require_chromium()

TEXT = """# Report

## Times

| server | ms | note |
|---|---|---|
| b | 10.5 [9, 12] | first |
| a | 9.25 [9, 10] | second |
| c | - | none |
| d | 1,000 | fourth |

## Nothing

One row does not sort, and neither do cells of no column.

| a |
|---|
| 1 |

## End
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    directory = tmp_path_factory.mktemp("reports")
    (directory / "report.md").write_text(TEXT, "utf-8")
    (path,) = write_reports(directory, ["report"], directory / "pages", {})
    return path.as_uri()


@pytest.fixture
def tab(browser, address):
    context = browser.new_context()
    watched = Watched(context)
    watched.page.goto(address)
    yield watched
    context.close()


def first_column(page):
    return page.locator("table").first.locator("tbody td:first-child").all_text_contents()


def test_the_enter_key_sorts_a_table_up_down_and_as_written(tab):
    button = tab.page.get_by_role("button", name="ms")
    header = tab.page.get_by_role("columnheader", name="ms")
    button.focus()
    orders = {"ascending": list("abdc"), "descending": list("dbac"), "none": list("bacd")}
    for direction, order in orders.items():
        tab.page.keyboard.press("Enter")
        assert header.get_attribute("aria-sort") == direction
        assert first_column(tab.page) == order
    assert button.evaluate("element => element === document.activeElement")


def test_another_column_takes_over_and_text_sorts_by_letters(tab):
    tab.page.get_by_role("button", name="ms").click()
    tab.page.get_by_role("button", name="server").press("Space")
    assert first_column(tab.page) == list("abcd")
    sorts = tab.page.locator("th[aria-sort]").evaluate_all("all => all.map(th => th.ariaSort)")
    assert sorts == ["ascending", "none", "none"]


def test_a_table_of_one_row_has_no_buttons(tab):
    assert tab.page.locator("table").nth(1).locator("button").count() == 0


def test_the_first_tab_stop_skips_to_the_content(tab):
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate("document.activeElement.id") == "content"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_has_no_error_no_request_and_no_serious_problem(tab, address, scheme):
    tab.page.emulate_media(color_scheme=scheme)
    assert tab.errors == []
    assert [url.partition("#")[0] for url in tab.requests] == [address]
    assert serious_problems(tab.page) == []


def test_axe_sees_a_planted_problem(tab):
    tab.page.evaluate("document.querySelector('html').removeAttribute('lang')")
    assert any(line.startswith("html-has-lang") for line in serious_problems(tab.page))
