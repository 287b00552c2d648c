"""The page /playground in Chromium, against a running service."""

import json

import httpx

from tests.support.browsers import require_chromium, serious_problems
from tests.support.playground import choose, request_of, slate_of, type_request
from tests.support.servers import fresh

require_chromium()

from playwright.sync_api import expect  # noqa: E402

KEY = "an-api-key-of-32-characters-xxxx"
BOB = "Feedback: the user's id alone"
RULES = "A pin, a block and one movie per director"
HOSTILE = [
    "<img src=x onerror=alert(1)>", "\u05d0\u05d1\u05d2 \u0645\u0631\u062d\u0628\u0627",
    "\U0001f600 \U0001f469\u200d\U0001f680", "'\"`${x}</script>", "x" * 256,
]  # fmt: skip


def expect_slate(page, ranked):
    """Wait until the page shows the slate that the service gives for the request as it is."""
    expected = ranked(request_of(page))
    page.wait_for_function(
        "expected => JSON.stringify([...document.querySelectorAll('#ranked > li')]"
        ".map((item) => item.dataset.id)) === JSON.stringify(expected)",
        arg=expected,
    )
    return expected


def test_every_sample_is_ranked_as_the_service_ranks_it(opened, ranked):
    page = opened()
    samples = page.locator("#sample option").all_text_contents()
    assert len(samples) >= 6
    for sample in samples:
        choose(page, sample)
        expect_slate(page, ranked)
        expect(page.locator("#problem")).to_be_hidden()


def test_the_table_follows_the_json_and_the_json_the_table(opened, ranked):
    page = opened()
    type_request(page, {"candidates": ["318", "296", "1"], "slate_size": 2})
    rows = page.locator("#candidates tbody tr")
    expect(rows).to_have_count(3)
    rows.nth(1).get_by_label("Pin at position").fill("1")
    rows.nth(1).get_by_label("Pin at position").press("Enter")
    rows.nth(0).get_by_label("Block").check()
    rows.nth(2).get_by_label("Boost").fill("1.5")
    rows.nth(2).get_by_label("Boost").press("Enter")
    request = request_of(page)
    assert request["constraints"] == {"pinned": {"296": 0}, "blocked": ["318"]}
    assert request["candidates"][2] == {"id": "1", "boost": 1.5}
    assert request["slate_size"] == 2
    assert expect_slate(page, ranked) == ["296", "1"]
    for badge in ("pinned", "blocked", "boosted +1.5"):
        expect(page.locator("#initial .badge", has_text=badge)).to_have_count(1)
    rows.nth(2).get_by_label("Move up").click()
    assert [entry["id"] for entry in request_of(page)["candidates"]] == ["318", "1", "296"]
    rows.nth(0).get_by_label("Remove").click()
    assert "blocked" not in request_of(page)["constraints"]
    page.get_by_label("Add a candidate").fill("4993")
    page.get_by_label("Add a candidate").press("Enter")
    assert request_of(page)["candidates"][-1] == {"id": "4993"}
    expect_slate(page, ranked)


def test_json_that_is_none_or_no_request_is_named_and_changes_nothing(opened):
    page = opened()
    before = slate_of(page)
    for text, words in (("{", "not valid JSON"), ("{}", "candidates"), ("[]", "an object")):
        page.locator("#json").fill(text)
        expect(page.locator("#json-problem")).to_contain_text(words)
        expect(page.locator("#slate-stale")).to_contain_text("last valid request")
    assert slate_of(page) == before


def test_chips_of_the_history_are_added_flipped_and_removed(opened, ranked):
    page = opened()
    type_request(page, {"user": {"history": ["260"]}, "candidates": ["318", "296", "1", "4993"]})
    chips = page.locator("#history > li")
    expect(chips).to_have_count(1)
    page.get_by_label("Add an item to the history").fill("1721")
    page.get_by_label("Add an item to the history").press("Enter")
    expect(chips).to_have_count(2)
    chips.nth(1).get_by_role("button", name=": liked").click()
    assert request_of(page)["user"]["history"][1] == {"id": "1721", "label": 0}
    chips.nth(0).get_by_role("button", name="Remove").click()
    assert [entry["id"] for entry in request_of(page)["user"]["history"]] == ["1721"]
    expect_slate(page, ranked)


def test_sliders_set_a_field_and_give_it_back_to_the_default(opened, ranked):
    page = opened()
    budget = page.locator("#slider-budget")
    budget.fill("1")
    assert request_of(page)["reasoning"] == {"budget": 1}
    page.locator("#slider-threshold").fill("0")
    assert request_of(page)["reasoning"]["entropy_threshold"] < 0
    expect(page.locator("#slider-threshold")).to_have_attribute("aria-valuetext", "always reason")
    page.locator("#slider-recommend").fill("50")
    page.locator("#slider-reason").fill("50")
    assert request_of(page)["temperatures"] == {"recommend": 1, "reason": 1}
    page.locator("#slider-diversity").fill("0.5")
    assert request_of(page)["diversity"] == {"by": "genres", "weight": 0.5}
    expect_slate(page, ranked)
    for name in ("Budget", "Entropy threshold", "Weight of diversity"):
        page.get_by_role("button", name=name).click()
    assert {"reasoning", "diversity"}.isdisjoint(request_of(page))
    expect_slate(page, ranked)


def test_a_cap_is_set_and_its_victims_have_a_badge(opened, ranked):
    page = opened()
    choose(page, RULES)
    expect(page.locator("#initial .badge", has_text="capped").first).to_be_visible()
    page.locator("#cap").fill("")
    page.locator("#cap").press("Enter")
    assert "max_per_group" not in request_of(page)["constraints"]
    expect(page.locator("#initial .badge", has_text="capped")).to_have_count(0)
    expect(page.locator("#initial .badge", has_text="unknown")).to_have_count(2)
    expect_slate(page, ranked)


def test_up_and_down_are_told_by_sign_words_and_a_line_beside_the_colour(opened):
    page = opened()
    kinds = page.locator("#ranked > li").evaluate_all("items => items.map((i) => i.dataset.kind)")
    assert {"up", "down"} <= set(kinds)
    for kind, sign, word in (("up", "▲", "up"), ("down", "▼", "down")):
        mark = page.locator(f'#ranked > li[data-kind="{kind}"] .move').first
        assert sign in mark.inner_text()
        assert mark.get_attribute("aria-label").startswith(word)
    assert page.locator("#columns > svg path").count() == len(kinds)


def test_a_position_opens_the_choices_before_and_after_each_step(opened):
    page = opened()
    expect(page.locator("#thinking-summary")).to_contain_text("positions took steps")
    stepped = page.locator("#positions > li", has_text="Took 3 of 3 steps").first
    expect(page.locator("#thinking-summary")).to_contain_text("choice")  # of single steps
    stepped.get_by_role("button").click()
    states = stepped.locator("thead th").all_inner_texts()
    assert [text.split("\n")[0] for text in states] == [
        "Candidate", "Before reasoning", "After step 1", "After step 2", "After step 3",
    ]  # fmt: skip
    assert stepped.locator("td strong").count() == 4  # the choice of each state
    last = [text.split()[0] for text in stepped.locator("td:last-child").all_inner_texts()]
    shares = [-1.0 if text == "\u2013" else float(text) for text in last]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[1]
    assert stepped.locator("td", has_text="read").count() == 5 * 3
    assert stepped.locator(".entropy").count() == 4
    assert stepped.locator(".dot:not(.left)").count() == 3
    assert stepped.locator(".threshold").count() == 1
    page.locator("#slider-budget").fill("0")
    expect(page.locator("#thinking-summary")).to_have_text("No position took a reasoning step.")


def test_the_time_has_a_part_for_each_stage(opened):
    page = opened()
    rows = page.locator("#time-bar th").all_text_contents()
    assert rows == ["parse", "state", "features", "queue", "inference", "respond"]
    assert page.locator("#time-bar .stages span").count() == len(rows)


def test_an_item_opens_the_reasons_of_its_position(opened):
    page = opened()
    third = page.locator("#ranked > li").nth(2)
    third.get_by_role("button", name="Why").click()
    position = page.locator("#positions > li").nth(2)
    expect(position.get_by_role("button")).to_be_focused()
    expect(position.get_by_role("button")).to_have_attribute("aria-expanded", "true")
    expect(position).to_contain_text("Chosen with probability")
    expect(position).to_contain_text("The initial ranking has it at")


def test_feedback_moves_the_next_ranking_and_the_user_is_looked_at_and_forgotten(
    opened, service_url, ranked
):
    page = opened()
    choose(page, BOB)
    with page.expect_request(lambda sent: '"of-bob","explain":"steps"' in (sent.post_data or "")):
        type_request(page, {**request_of(page), "request_id": "of-bob"})  # the slate, then steps
    first = expect_slate(page, ranked)
    like = page.locator(f'#ranked > li[data-id="{first[-2]}"]').get_by_role("button", name="Like")
    with page.expect_request("**/feedback") as request:
        like.click()
    (event,) = request.value.post_data_json["events"]
    assert (event["request_id"], event["position"]) == ("of-bob", len(first) - 2)
    expect(page.locator("#loop-words")).to_contain_text("Sent like")
    page.locator(f'#ranked > li[data-id="{first[0]}"]').get_by_role("button", name="Hide").click()
    expect(page.locator("#loop-words")).to_contain_text("Sent pass")
    page.locator("#again").click()
    expect(page.locator("#loop-words")).to_contain_text("Moved:")
    assert slate_of(page) != first
    page.locator("#look").click()
    expect(page.locator("#loop-words")).to_contain_text("all that the store has")
    record = json.loads(page.locator("#stored-user").inner_text())
    assert record["history"]["id"] == [first[-2], first[0]]
    page.locator("#forget").click()
    expect(page.locator("#loop-words")).to_contain_text("forgotten")
    assert httpx.get(f"{service_url}/users/bob").status_code == 404
    page.locator("#look").click()
    expect(page.locator("#loop-words")).to_contain_text("knows nothing")


def test_a_stated_history_leaves_the_counters_of_items_to_events(opened):
    """Both truths: the stored history is not read, and counters still move slates."""
    page = opened()
    note = page.locator("#loop-note")
    expect(note).to_contain_text("states a history, so the stored one is not read")
    expect(note).to_contain_text("events still move the counters of their items")
    words = page.locator("#loop-words")
    page.locator("#again").click()
    expect(words).to_contain_text("sent no event in between")
    item = page.locator("#ranked > li").last
    item.get_by_role("button", name="Like").click()
    expect(item.locator(".sent")).to_have_text("like sent")
    page.locator("#again").click()
    expect(words).to_contain_text("the stored one was not read")
    expect(words).to_contain_text("ounters of items (")
    page.locator("#forget").click()
    expect(words).to_contain_text("counters of items keep the events")
    page.locator("#again").click()
    expect(words).to_contain_text("A deletion leaves the counters of items")


def test_a_history_that_is_left_to_the_store_comes_back(opened, ranked):
    page = opened()
    stated = request_of(page)["user"]["history"]
    chips = page.locator("#history > li")
    count = chips.count()
    assert count == len(stated)
    page.locator("#stored-history").check()
    expect(page.locator("#loop-note")).not_to_contain_text("states a history")
    assert "history" not in request_of(page)["user"]
    expect(chips).to_have_count(count)
    expect(page.locator("#history-note")).to_contain_text("Not sent")
    page.locator("#slider-budget").fill("1")
    page.locator("#stored-history").uncheck()
    assert request_of(page)["user"]["history"] == stated
    expect(page.locator("#history-note")).to_be_empty()
    page.locator("#stored-history").check()
    choose(page, BOB)  # another request, which has no history to come back
    expect(chips).to_have_count(0)
    expect_slate(page, ranked)


def test_the_select_names_the_sample_that_a_request_was_edited_from(opened):
    page = opened()
    chosen = page.locator("#sample option:checked")
    choose(page, RULES)
    page.locator("#cap").fill("")
    page.locator("#cap").press("Enter")
    expect(chosen).to_have_text(f"{RULES} (edited)")
    choose(page, RULES)
    expect(chosen).to_have_text(RULES)
    assert "(edited)" not in "".join(page.locator("#sample option").all_text_contents())


def test_a_damaged_link_is_named_and_not_taken_for_the_sample(opened):
    page = opened("#request=eyJjYW5kaWRhdGVzIjpb")
    problem = page.locator("#link-problem")
    expect(problem).to_contain_text("This link is damaged")
    expect(problem).to_contain_text("first sample is shown instead")
    page.evaluate("location.hash = '#request=e30'")
    expect(problem).to_contain_text("not valid")
    page.locator("#slider-budget").fill("1")
    expect(problem).to_be_hidden()


def test_a_link_opens_the_request_and_the_address_that_has_it_follows_edits(opened):
    page = opened()
    choose(page, RULES)
    assert page.evaluate("location.hash") == ""
    page.locator("#share").click()
    expect(page.locator("#copied-words")).to_contain_text("Copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert page.evaluate("location.href") == link
    page.locator("#slider-budget").fill("1")
    page.wait_for_function("link => location.href !== link", arg=link)
    page.get_by_role("link", name="Compare").click()  # a section, which is not in the address
    other = opened(page.evaluate("location.hash"))
    assert request_of(other) == request_of(page)
    expect(other.locator("#sample option:checked")).to_contain_text("none")


def test_a_copy_is_in_the_clipboard_and_on_the_page(opened, service_url):
    page = opened()
    for language in ("curl", "python", "node"):
        page.locator(f'button.copy[data-language="{language}"]').click()
        expect(page.locator("#copied-words")).to_contain_text(language)
        text = page.evaluate("navigator.clipboard.readText()")
        assert service_url in text
        assert page.locator("#copied-text").input_value() == text


def test_any_id_is_shown_as_text(opened, ranked):
    page = opened()
    request = {
        "user": {"id": HOSTILE[-1], "history": HOSTILE}, "candidates": [*HOSTILE, "318"],
        "constraints": {"pinned": {HOSTILE[0]: 1}},
    }  # fmt: skip
    type_request(page, request)
    expect_slate(page, ranked)
    names = sorted([*HOSTILE, "The Shawshank Redemption"])
    for items in ("#ranked > li", "#initial > li", "#candidates tbody tr", "#positions > li"):
        assert sorted(page.locator(f"{items} bdi").all_inner_texts()) == names
    assert page.locator("#ranked > li").nth(1).locator("bdi").inner_text() == HOSTILE[0]
    assert page.locator("#history bdi").all_inner_texts() == HOSTILE
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_refusal_names_the_field_and_the_next_ranking_removes_it(opened, ranked):
    page = opened(refusals=[422])
    type_request(page, {"candidates": ["1", "1"]})
    expect(page.locator("#problem")).to_contain_text("candidates")
    type_request(page, {"candidates": ["1", "296"]})
    expect(page.locator("#problem")).to_be_hidden()
    expect_slate(page, ranked)


def test_the_keyboard_alone_ranks_and_opens_a_position(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the slate"
    page.locator("#rank").focus()
    page.keyboard.press("Enter")
    first = page.locator("#positions button.open").first
    first.focus()
    page.keyboard.press("Enter")
    expect(first).to_have_attribute("aria-expanded", "true")
    page.locator("#candidates").get_by_label("Move down").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.closest('tr')?.rowIndex === 2")  # its row moved
    assert page.evaluate("document.activeElement.ariaLabel").startswith("Move down")


def test_the_accessibility_checker_calls_nothing_serious(opened):
    # The checker makes markup of text, which the policy of the page forbids.
    page = opened(viewport={"width": 1280, "height": 900}, bypass_csp=True)
    choose(page, RULES)
    page.locator("#positions button.open").nth(1).click()
    page.locator(".preset").first.click()
    page.locator("#compare-result table").wait_for()
    assert serious_problems(page) == []
    page.evaluate("document.querySelector('#json').removeAttribute('aria-label')")
    assert serious_problems(page, ["label"]) != []


def test_a_narrow_dark_page_keeps_contrast_and_width(opened):
    page = opened(color_scheme="dark", viewport={"width": 360, "height": 800}, bypass_csp=True)
    choose(page, RULES)
    page.locator("#positions button.open").nth(1).click()
    rules = ["color-contrast", "scrollable-region-focusable"]
    assert serious_problems(page, rules) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("link", name="Go to the initial ranking").click()
    expect(page.locator("#initial-title")).to_be_in_viewport()
    page.evaluate("document.querySelector('h1').style.color = '#333'")
    assert serious_problems(page, rules) != []


def test_a_key_is_asked_for_where_there_are_keys_and_kept_in_the_tab(browser, session, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"shop:{KEY}\n")
    with fresh(session, playground=True, api_keys_file=keys) as url:
        context = browser.new_context(http_credentials={"username": "me", "password": KEY})
        page = context.new_page()
        page.goto(f"{url}/playground")
        expect(page.locator("#keys")).to_be_visible()
        page.locator("#api-key").fill(KEY)
        page.locator("#api-key").press("Enter")
        expect(page.locator("#ranked > li").first).to_be_visible()
        page.reload()
        expect(page.locator("#ranked > li").first).to_be_visible()
        assert page.evaluate("localStorage.length") == 0
        context.close()
