"""Comparisons on the page, and further calls that fail or disagree with the slate."""

import re

import httpx

from tests.support.browsers import require_chromium
from tests.support.playground import choose, request_of, slate_of, type_request
from tests.support.servers import fresh

require_chromium()

from playwright.sync_api import Route, expect  # noqa: E402

REFUSAL = {"status": 429, "json": {"detail": "over quota"}}
OVERLOAD = {"reason": "overload", "reasons": ["overload"]}
NAMES = "items => items.map((item) => item.querySelector('bdi').textContent)"


def asks_for_steps(request):
    """Tell if a request of the page is the one for the states of single steps."""
    return '"explain":"steps"' in (request.post_data or "")


def test_a_slate_is_shown_even_if_the_probes_for_unknown_candidates_are_refused(opened):
    page = opened(refusals=[429])
    page.route("**/rerank/batch", lambda route: route.fulfill(**REFUSAL), times=1)
    with page.expect_request(asks_for_steps):  # which follows the probes
        type_request(page, {"candidates": ["318", "nobody"]})
    assert sorted(slate_of(page)) == ["318", "nobody"]
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#slate-summary")).to_contain_text("1 of the candidates unknown")
    badge = page.locator("#initial .badge", has_text="unknown")
    expect(badge).to_have_count(0)
    page.locator("#rank").click()
    expect(badge).to_have_count(1)


def test_a_comparison_says_what_reasoning_and_diversity_changed(opened):
    page = opened()
    page.get_by_role("button", name="Reasoning off and on").click()
    expect(page.locator("#compare-words")).to_contain_text("positions differ")
    expect(page.locator("#compare-words")).to_contain_text("Kendall's tau")
    expect(page.locator("#compare-words")).to_contain_text("keep their order")
    page.get_by_role("button", name="Diversity 0 and 0.5").click()
    result = page.locator("#compare-result")
    expect(result.locator("thead")).to_contain_text("B: Weight of diversity 0.5")
    counts = result.locator("tr", has_text="genres in the first 5").locator("td")
    assert int(counts.nth(1).inner_text()) > int(counts.nth(0).inner_text())
    expect(page.locator("#compare-words")).to_contain_text("The first 5 of A have")


def test_the_settings_of_both_sides_are_compared(opened):
    page = opened()
    page.locator("#sides-part summary").click()
    choose(page, "Twelve movies, diversity and a boost")
    page.locator("#compare-A-budget").fill("")
    page.locator("#compare-A-diversity").fill("0")
    page.locator("#compare-B-slates").fill("4")
    page.locator("#compare-run").click()
    expect(page.locator("#compare-result tr", has_text="Utility")).to_contain_text("only sampled")
    type_request(page, {"candidates": ["318"]})
    page.locator("#compare-A-diversity").fill("")
    page.locator("#compare-B-slates").fill("")
    page.locator("#compare-run").click()
    expect(page.locator("#compare-words")).to_contain_text("slates are the same")


def test_a_request_that_reasoning_changes_is_searched_and_then_shown(opened, ranked):
    page = opened()
    before = request_of(page)
    page.locator("#find").click()
    expect(page.locator("#compare-words")).to_contain_text("positions differ")
    request = request_of(page)
    assert request["candidates"] != before["candidates"]
    assert request["user"] == before["user"]
    expect(page.locator("#sample option:checked")).to_contain_text("none")
    without = {**request, "reasoning": {"budget": 0}}
    assert ranked(request) != ranked(without)


def test_results_of_an_earlier_request_are_marked_or_cleared(opened):
    page = opened()
    stale, old_slate = page.locator("#compare-stale"), page.locator("#slate-stale")
    page.get_by_role("button", name="Reasoning off and on").click()
    page.locator("#compare-result table").wait_for()
    expect(stale).to_be_hidden()
    page.locator("#again").click()
    expect(page.locator("#loop-words")).not_to_be_empty()
    page.locator("#slider-budget").fill("1")
    expect(stale).to_be_visible()
    expect(page.locator("#loop-words")).to_be_empty()
    page.get_by_role("button", name="Budget").click()
    expect(stale).to_be_hidden()  # the request is as it was
    page.locator("#auto").uncheck()
    page.locator("#slider-budget").fill("1")
    expect(old_slate).to_contain_text("earlier request")
    page.locator("#rank").click()
    expect(old_slate).to_be_hidden()


def is_of_a_comparison(request):
    """Tell if a request of the page is a run of a side."""
    return '"explain":false' in (request.post_data or "")


def test_a_comparison_that_ends_after_an_edit_is_marked(opened):
    page = opened()
    held: list[Route] = []

    def hold(route):
        """Hold the first run of side A, and let all else go on."""
        if is_of_a_comparison(route.request) and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/rerank", hold)
    with page.expect_request(is_of_a_comparison):
        page.get_by_role("button", name="Reasoning off and on").click()
    page.locator("#slider-budget").fill("1")
    expect(page.locator("#compare-stale")).to_be_hidden()  # no result yet
    held[0].continue_()
    page.locator("#compare-result table").wait_for()
    expect(page.locator("#compare-stale")).to_be_visible()


def test_a_degraded_side_is_named_before_the_comparison(opened):
    page = opened()

    def degrade(route):
        response = route.fetch()
        content = response.json()
        if route.request.post_data_json.get("reasoning") == {"budget": 0}:
            content["degraded"] = OVERLOAD
        route.fulfill(response=response, json=content)

    page.route("**/rerank", degrade)
    page.get_by_role("button", name="Reasoning off and on").click()
    expect(page.locator("#compare-words")).to_contain_text("A was degraded (overload)")
    page.unroute("**/rerank")
    page.get_by_role("button", name="Reasoning off and on").click()
    differ = re.compile(r"^(All|\d+ of) \d+ positions differ")
    expect(page.locator("#compare-words")).to_have_text(differ)


def test_a_service_that_explores_changes_neither_comparison_nor_thinking(browser, session):
    """Every list is sampled, so a second ranking gives another slate."""
    with fresh(session, playground=True, explore_share=1.0) as url:
        page = browser.new_page()
        page.goto(f"{url}/playground")
        expect(page.locator("#thinking-summary")).to_contain_text("gave another slate")
        positions = page.locator("#positions > li").evaluate_all(NAMES)
        assert positions == page.locator("#ranked > li").evaluate_all(NAMES)
        page.locator("#sides-part summary").click()
        page.locator("#compare-A-budget").fill("")
        page.locator("#compare-run").click()
        expect(page.locator("#compare-words")).to_contain_text("slates are the same")
        expect(page.locator("#compare-words")).not_to_contain_text("explores")
        request = request_of(page)
        page.close()
        answers = [httpx.post(f"{url}/rerank", json=request).json() for _ in range(4)]
    assert len({tuple(entry["id"] for entry in each["slate"]) for each in answers}) > 1
