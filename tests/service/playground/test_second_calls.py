"""The page where further calls fail, or disagree with the slate."""

import re

import httpx

from tests.support.browsers import require_chromium
from tests.support.playground import request_of, slate_of, type_request
from tests.support.servers import fresh

require_chromium()

from playwright.sync_api import expect  # noqa: E402

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
