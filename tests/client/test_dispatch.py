"""What is sent when, and what comes of each outcome: no sockets, a clock that the test turns."""

import json
import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import httpx
import pytest

import rerank_client.dispatch
from rerank_client import Failed, Refused, TimedOut, Unavailable
from rerank_client.dispatch import BACKOFF_S, GRACE_S, Answer, Asker, Lost
from tests.client.conftest import answer_to

URLS = ["http://a:1", "http://b:2/", "http://c:3"]
GONE = Lost("connection", "refused")
GOOD = Answer(200, {}, json.dumps(answer_to({"candidates": [{"id": "x"}]})).encode())


def status(code, **headers):
    return Answer(code, httpx.Headers({k.replace("_", "-"): v for k, v in headers.items()}), b"")


@pytest.fixture
def clock(monkeypatch):
    """Monotonic time, which passes only when a test or a pause says so."""
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(rerank_client.dispatch, "time", clock)
    return clock


class Play:
    """One call against outcomes in turn; `sent` is what was sent, at which second of the call."""

    def __init__(self, clock, asker, outcomes, timeout_ms=None, takes=0.01, **wishes):
        began, call = clock.now, asker.single(["x", "y"], timeout_ms, "mine", None, wishes)
        self.sent, self.at, self.answer, outcome = [], [], None, None
        left = iter(outcomes)
        try:
            while True:
                send = call.send(outcome)
                clock.now += send.pause_s
                self.sent.append(send)
                self.at.append(clock.now - began)
                outcome = next(left)
                clock.now += takes
        except StopIteration as done:
            (self.answer,) = done.value

    @property
    def hosts(self):
        return "".join(httpx.URL(send.url).host for send in self.sent)


def asker(urls=URLS, timeout_ms=1000, fallback=False, api_key=None, seed=0):
    return Asker(urls, timeout_ms, api_key, fallback, random.Random(seed))


def left_ms(send, http=None):
    with httpx.Client() as http:
        return float(send.request(http).headers["X-Request-Timeout-Ms"])


def test_what_is_asked_for_is_sent_and_nothing_else(clock):
    wishes = {"slate_size": 1, "user": None, "explain": False, "context": {"hour": 0}}
    play = Play(clock, asker(api_key="k3y"), [GOOD], **wishes)
    (send,) = play.sent
    assert send.url == "http://a:1/rerank"
    assert json.loads(send.content) == {
        "candidates": [{"id": "x"}, {"id": "y"}], "slate_size": 1, "context": {"hour": 0}
    }  # fmt: skip
    assert send.headers["X-Request-ID"] == "mine"
    assert send.headers["Authorization"] == "Bearer k3y"
    assert "traceparent" not in send.headers
    assert json.loads(Play(clock, asker(), [GOOD], explain=True).sent[0].content)["explain"] is True


def test_the_base_url_may_have_a_path_and_a_slash_at_its_end(clock):
    send = Play(clock, asker("https://shop:8/rank/"), [GOOD]).sent[0]
    assert send.url == "https://shop:8/rank/rerank"


def test_the_next_instance_is_asked_at_once_after_a_lost_connection_and_after_a_503(clock):
    play = Play(clock, asker(), [GONE, status(503, Retry_After="9"), GOOD])
    assert play.hosts == "abc"
    assert [send.pause_s for send in play.sent] == [0, 0, 0]
    assert play.answer.degraded is None


def test_the_next_call_starts_with_the_instance_that_answered(clock):
    asking = asker()
    assert Play(clock, asking, [GONE, GOOD]).hosts == "ab"
    assert Play(clock, asking, [GOOD]).hosts == "b"
    assert Play(clock, asking, [GONE, GONE, GOOD]).hosts == "bca"


def test_an_instance_that_cannot_be_reached_is_not_asked_twice(clock):
    with pytest.raises(Unavailable, match="asked 3 times, last: refused") as told:
        Play(clock, asker(), [GONE] * 4)
    assert told.value.request_id == "mine"
    with pytest.raises(Unavailable, match="asked 1 times"):
        Play(clock, asker("http://a"), [GONE] * 2)


def test_one_url_given_twice_is_asked_twice(clock):
    assert Play(clock, asker(["http://a"] * 2), [GONE, GOOD]).hosts == "aa"


def test_retry_after_is_waited_for_where_it_fits_and_only_there(clock):
    busy = status(503, Retry_After="1")
    play = Play(clock, asker("http://a", timeout_ms=1500), [busy, GOOD])
    assert 1.0 <= play.at[1] <= 1.0 + 0.01 + 1.5 * BACKOFF_S
    assert play.answer.ids == ("x",)
    with pytest.raises(Unavailable, match="asked 1 times, last: status 503"):
        Play(clock, asker("http://a", timeout_ms=900), [busy, GOOD])


def test_of_several_busy_instances_the_one_that_is_ready_first_is_asked_again(clock):
    busy = [status(503, Retry_After=seconds) for seconds in ("3", "1", "2")]
    play = Play(clock, asker(timeout_ms=5000), [*busy, GONE, GOOD])
    assert play.hosts == "abcbc"  # b is gone by then, and not asked again
    assert play.at[4] == pytest.approx(2.03, abs=3 * BACKOFF_S)


def test_retry_after_may_be_a_date_and_nonsense_is_as_good_as_none(clock):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    late = Play(clock, asker("http://a", timeout_ms=5000), [status(503, Retry_After=date), GOOD])
    assert 1.5 < late.at[1] < 3.2
    for nonsense in ("soon", "-5", "1.5", "inf"):
        play = Play(clock, asker("http://a"), [status(503, Retry_After=nonsense), GOOD])
        assert play.at[1] < 0.1


def test_retries_back_off_and_are_spread_by_chance(clock):
    busy = [status(503)] * 3
    first, same, other = (
        Play(clock, asker("http://a", seed=seed), [*busy, GOOD]) for seed in (0, 0, 1)
    )
    assert first.at == pytest.approx(same.at)
    assert first.at != pytest.approx(other.at)
    for round_, send in enumerate(first.sent[1:]):
        assert 0.5 <= send.pause_s / (BACKOFF_S * 2**round_) <= 1.5


@pytest.mark.parametrize("code", [400, 401, 404, 413, 422, 429, 500, 502, 504, 302, 204])
def test_no_other_status_is_asked_again(clock, code):
    with pytest.raises((Refused, Failed, TimedOut)):
        Play(clock, asker(), [status(code), GOOD])


@pytest.mark.parametrize(
    ("outcome", "kind", "reason"),
    [
        (status(500), Failed, "status 500"),
        (status(504), TimedOut, "timeout"),
        (status(302), Failed, "status 302"),
        (Lost("late", "ReadTimeout"), TimedOut, "timeout"),
        (Lost("broken", "ReadError"), Failed, "broken answer"),
        (Answer(200, {}, b"<html>"), Failed, "unreadable answer"),
        (status(503), Unavailable, "unavailable"),
    ],
)
def test_without_an_answer_the_initial_ranking_is_answered_or_the_cause_is_raised(
    clock, outcome, kind, reason
):
    hasty = {"timeout_ms": 20, "takes": 0.011}  # no time for the backoff
    with pytest.raises(kind) as told:
        Play(clock, asker("http://a"), [outcome], **hasty)
    assert told.value.reason == reason
    answer = Play(clock, asker("http://a", fallback=True), [outcome], slate_size=1, **hasty).answer
    assert answer.degraded == f"client: {reason}"
    assert answer.ids == ("x",)
    assert (answer.request_id, answer.model, answer.raw) == ("mine", None, {})
    assert answer.latency_ms == {"total": pytest.approx(11)}


@pytest.mark.parametrize("code", [400, 404, 413, 422, 429])
def test_a_refusal_is_raised_with_and_without_fallback(clock, code):
    for fallback in (True, False):
        with pytest.raises(Refused) as told:
            Play(clock, asker(fallback=fallback), [status(code)])
        assert told.value.status == code


def test_every_attempt_is_told_what_is_left(clock):
    asking = asker(timeout_ms=500)
    calling = asking.single(["x"], None, None, None, {})
    seen = []
    outcome = None
    for _ in range(3):
        send = calling.send(outcome)
        seen.append(left_ms(send))
        clock.now += 0.1
        outcome = GONE
    assert seen == pytest.approx([500, 400, 300])


def test_a_call_may_have_its_own_deadline(clock):
    (send,) = Play(clock, asker(), [GOOD], timeout_ms=70).sent
    assert send.deadline == pytest.approx(100.07)
    assert send.until == pytest.approx(100.07 + GRACE_S)


def test_httpx_is_given_what_is_left_when_a_phase_begins_and_never_nothing(clock):
    send = Play(clock, asker("http://a"), [GOOD]).sent[0]
    with httpx.Client() as http:
        timeouts = send.request(http).extensions["timeout"]
    clock.now = 100.25
    assert timeouts.get("connect") == pytest.approx(0.75)
    assert timeouts.get("read") == pytest.approx(0.75 + GRACE_S)
    clock.now = 200.0
    assert 0 < timeouts.get("read") < 0.01
    assert 0 < left_ms(send) < 10


def test_an_instance_that_swallows_packets_leaves_time_for_the_others(clock):
    slow = Lost.of(httpx.ConnectTimeout("no answer"), begun=False)
    play = Play(clock, asker(timeout_ms=900), [slow, slow, GOOD], takes=0.3)
    until = [send.connect_until - 100 for send in play.sent]
    assert until == pytest.approx([0.3, 0.6, 0.9])
    assert play.hosts == "abc"


def test_a_deadline_that_passes_while_connecting_is_a_timeout(clock):
    with pytest.raises(TimedOut):
        Play(clock, asker("http://a"), [Lost("connection", "ConnectTimeout")], takes=1.1)


@pytest.mark.parametrize(
    ("error", "begun", "how"),
    [
        (httpx.ConnectError("refused"), False, "connection"),
        (httpx.ReadError("reset"), False, "connection"),
        (httpx.RemoteProtocolError("disconnected"), False, "connection"),
        (httpx.ConnectTimeout("slow"), False, "connection"),
        (httpx.ReadError("reset"), True, "broken"),
        (httpx.RemoteProtocolError("disconnected"), True, "broken"),
        (httpx.ReadTimeout("slow"), False, "late"),
        (httpx.ReadTimeout("slow"), True, "late"),
        (httpx.PoolTimeout("full"), False, "late"),
        (TimeoutError(), True, "late"),
    ],
)
def test_what_httpx_raises_is_told_by_whether_an_answer_had_begun(error, begun, how):
    assert Lost.of(error, begun).how == how


@pytest.mark.parametrize(
    ("candidates", "wishes", "kind"),
    [
        ([], {}, ValueError),
        ("abc", {}, ValueError),
        ([7], {}, (TypeError, ValueError)),
        ([{"id": 7}], {}, TypeError),
        ([{"features": {}}], {}, TypeError),
        (["a"], {"slate_sise": 3}, TypeError),
        (["a"], {"context": {"hour": float("nan")}}, ValueError),
        (["a"], {"constraints": {"blocked": {"a"}}}, TypeError),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is(candidates, wishes, kind):
    with pytest.raises(kind):
        asker(fallback=True).single(candidates, None, None, None, wishes)
    asker().single(["a"], None, None, None, {"slate_size": 3, "context": {"hour": 1.0}})


@pytest.mark.parametrize(
    "changes",
    [
        {"timeout_ms": 0},
        {"timeout_ms": float("nan")},
        {"timeout_ms": float("inf")},
        {"request_id": ""},
        {"request_id": "é"},
        {"request_id": "a\nb"},
        {"request_id": "a" * 129},
        {"traceparent": "a\r\nHost: b"},
    ],
)
def test_a_deadline_or_header_that_cannot_be_is_a_value_error(changes):
    good = {"timeout_ms": 5, "request_id": "a" * 128, "traceparent": "00-0af7-b7ad-01"}
    asker().single(["a"], wishes={}, **good)
    with pytest.raises(ValueError, match=next(iter(changes))):
        asker().single(["a"], wishes={}, **good | changes)


@pytest.mark.parametrize(
    "url",
    ["", "a:8000", "ftp://a", "http://", "http://a/?q=1", "http://a:port", "http://me:s3cret@a"],
)
def test_a_url_that_is_none_is_a_value_error_without_its_password(url):
    with pytest.raises(ValueError, match="urls") as told:
        asker(["http://a", url])
    assert "s3cret" not in str(told.value)


def test_no_url_at_all_is_a_value_error():
    with pytest.raises(ValueError, match="urls"):
        asker([])


@pytest.mark.parametrize("key", ["", "s3cret\n", "s3 cret", "s3crét"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key):
    with pytest.raises(ValueError, match="api_key") as told:
        asker(api_key=key)
    assert "s3cr" not in str(told.value)


def test_the_key_is_in_no_repr(clock):
    asking = asker(api_key="s3cret")
    play = Play(clock, asking, [GOOD])
    assert play.sent[0].headers["Authorization"] == "Bearer s3cret"
    for shown in (asking, play.sent[0], vars(asking), play.answer):
        assert "s3cret" not in repr(shown)
