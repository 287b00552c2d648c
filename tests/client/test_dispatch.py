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
from rerank_client.dispatch import BACKOFF_S, GRACE_S, Dispatcher, HttpResponse, TransportFailure
from tests.client.conftest import response_to

URLS = ["http://a:1", "http://b:2/", "http://c:3"]
UNREACHABLE = TransportFailure("connection", "refused")
GOOD = HttpResponse(200, {}, json.dumps(response_to({"candidates": [{"id": "x"}]})).encode())


def status(code, **headers):
    return HttpResponse(
        code, httpx.Headers({k.replace("_", "-"): v for k, v in headers.items()}), b""
    )


@pytest.fixture
def clock(monkeypatch):
    """Monotonic time, which passes only when a test or a pause says so."""
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(rerank_client.dispatch, "time", clock)
    return clock


class Play:
    """One call against outcomes in turn; `sent` is what was sent, at which second of the call."""

    def __init__(self, clock, dispatcher, outcomes, timeout_ms=None, takes=0.01, **options):
        began, call = clock.now, dispatcher.single(["x", "y"], timeout_ms, "mine", None, options)
        self.sent, self.at, self.response, outcome = [], [], None, None
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
            (self.response,) = done.value

    @property
    def hosts(self):
        return "".join(httpx.URL(send.url).host for send in self.sent)


def dispatcher(urls=URLS, timeout_ms=1000, fallback=False, api_key=None, seed=0):
    return Dispatcher(urls, timeout_ms, api_key, fallback, random.Random(seed))


def sent_timeout_ms(send, http=None):
    with httpx.Client() as http:
        return float(send.request(http).headers["X-Request-Timeout-Ms"])


def test_what_is_asked_for_is_sent_and_nothing_else(clock):
    options = {"slate_size": 1, "user": None, "explain": False, "context": {"hour": 0}}
    play = Play(clock, dispatcher(api_key="k3y"), [GOOD], **options)
    (send,) = play.sent
    assert send.url == "http://a:1/rerank"
    assert json.loads(send.content) == {
        "candidates": [{"id": "x"}, {"id": "y"}], "slate_size": 1, "context": {"hour": 0}
    }  # fmt: skip
    assert send.headers["X-Request-ID"] == "mine"
    assert send.headers["Authorization"] == "Bearer k3y"
    assert "traceparent" not in send.headers
    assert (
        json.loads(Play(clock, dispatcher(), [GOOD], explain=True).sent[0].content)["explain"]
        is True
    )


def test_the_base_url_may_have_a_path_and_a_slash_at_its_end(clock):
    send = Play(clock, dispatcher("https://shop:8/rank/"), [GOOD]).sent[0]
    assert send.url == "https://shop:8/rank/rerank"


def test_the_next_instance_is_asked_at_once_after_a_lost_connection_and_after_a_503(clock):
    play = Play(clock, dispatcher(), [UNREACHABLE, status(503, Retry_After="9"), GOOD])
    assert play.hosts == "abc"
    assert [send.pause_s for send in play.sent] == [0, 0, 0]
    assert play.response.degraded is None


def test_the_next_call_starts_with_the_instance_that_answered(clock):
    dispatch = dispatcher()
    assert Play(clock, dispatch, [UNREACHABLE, GOOD]).hosts == "ab"
    assert Play(clock, dispatch, [GOOD]).hosts == "b"
    assert Play(clock, dispatch, [UNREACHABLE, UNREACHABLE, GOOD]).hosts == "bca"


def test_an_instance_that_cannot_be_reached_is_not_asked_twice(clock):
    with pytest.raises(Unavailable, match="attempts: 3, the last: refused") as raised:
        Play(clock, dispatcher(), [UNREACHABLE] * 4)
    assert raised.value.request_id == "mine"
    with pytest.raises(Unavailable, match="attempts: 1,"):
        Play(clock, dispatcher("http://a"), [UNREACHABLE] * 2)


def test_one_url_given_twice_is_asked_twice(clock):
    assert Play(clock, dispatcher(["http://a"] * 2), [UNREACHABLE, GOOD]).hosts == "aa"


def test_retry_after_is_waited_for_where_it_fits_and_only_there(clock):
    busy = status(503, Retry_After="1")
    play = Play(clock, dispatcher("http://a", timeout_ms=1500), [busy, GOOD])
    assert 1.0 <= play.at[1] <= 1.0 + 0.01 + 1.5 * BACKOFF_S
    assert play.response.ids == ("x",)
    with pytest.raises(Unavailable, match="attempts: 1, the last: status 503"):
        Play(clock, dispatcher("http://a", timeout_ms=900), [busy, GOOD])


def test_of_several_busy_instances_the_one_that_is_ready_first_is_asked_again(clock):
    busy = [status(503, Retry_After=seconds) for seconds in ("3", "1", "2")]
    play = Play(clock, dispatcher(timeout_ms=5000), [*busy, UNREACHABLE, GOOD])
    assert play.hosts == "abcbc"  # b is gone by then, and not asked again
    assert play.at[4] == pytest.approx(2.03, abs=3 * BACKOFF_S)


def test_retry_after_may_be_a_date_and_nonsense_is_as_good_as_none(clock):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    late = Play(
        clock, dispatcher("http://a", timeout_ms=5000), [status(503, Retry_After=date), GOOD]
    )
    assert 1.5 < late.at[1] < 3.2
    for nonsense in ("soon", "-5", "1.5", "inf"):
        play = Play(clock, dispatcher("http://a"), [status(503, Retry_After=nonsense), GOOD])
        assert play.at[1] < 0.1


def test_retries_back_off_and_are_spread_by_chance(clock):
    busy = [status(503)] * 3
    first, same, other = (
        Play(clock, dispatcher("http://a", seed=seed), [*busy, GOOD]) for seed in (0, 0, 1)
    )
    assert first.at == pytest.approx(same.at)
    assert first.at != pytest.approx(other.at)
    for round_, send in enumerate(first.sent[1:]):
        assert 0.5 <= send.pause_s / (BACKOFF_S * 2**round_) <= 1.5


@pytest.mark.parametrize("code", [400, 401, 404, 413, 422, 429, 500, 502, 504, 302, 204])
def test_no_other_status_is_asked_again(clock, code):
    with pytest.raises((Refused, Failed, TimedOut)):
        Play(clock, dispatcher(), [status(code), GOOD])


@pytest.mark.parametrize(
    ("outcome", "kind", "reason"),
    [
        (status(500), Failed, "status 500"),
        (status(504), TimedOut, "timeout"),
        (status(302), Failed, "status 302"),
        (TransportFailure("late", "ReadTimeout"), TimedOut, "timeout"),
        (TransportFailure("broken", "ReadError"), Failed, "broken answer"),
        (HttpResponse(200, {}, b"<html>"), Failed, "unreadable answer"),
        (status(503), Unavailable, "unavailable"),
    ],
)
def test_without_an_answer_the_initial_ranking_is_answered_or_the_cause_is_raised(
    clock, outcome, kind, reason
):
    hasty = {"timeout_ms": 20, "takes": 0.011}  # no time for the backoff
    with pytest.raises(kind) as raised:
        Play(clock, dispatcher("http://a"), [outcome], **hasty)
    assert raised.value.reason == reason
    response = Play(
        clock, dispatcher("http://a", fallback=True), [outcome], slate_size=1, **hasty
    ).response
    assert response.degraded == f"client: {reason}"
    assert response.ids == ("x",)
    assert (response.request_id, response.model, response.raw) == ("mine", None, {})
    assert response.latency_ms == {"total": pytest.approx(11)}


@pytest.mark.parametrize("code", [400, 404, 413, 422, 429])
def test_a_refusal_is_raised_with_and_without_fallback(clock, code):
    for fallback in (True, False):
        with pytest.raises(Refused) as raised:
            Play(clock, dispatcher(fallback=fallback), [status(code)])
        assert raised.value.status == code


def test_every_attempt_is_told_what_is_left(clock):
    dispatch = dispatcher(timeout_ms=500)
    call = dispatch.single(["x"], None, None, None, {})
    seen = []
    outcome = None
    for _ in range(3):
        send = call.send(outcome)
        seen.append(sent_timeout_ms(send))
        clock.now += 0.1
        outcome = UNREACHABLE
    assert seen == pytest.approx([500, 400, 300])


def test_a_call_may_have_its_own_deadline(clock):
    (send,) = Play(clock, dispatcher(), [GOOD], timeout_ms=70).sent
    assert send.deadline == pytest.approx(100.07)
    assert send.give_up_at == pytest.approx(100.07 + GRACE_S)


def test_httpx_is_given_what_is_left_when_a_phase_begins_and_never_nothing(clock):
    send = Play(clock, dispatcher("http://a"), [GOOD]).sent[0]
    with httpx.Client() as http:
        timeouts = send.request(http).extensions["timeout"]
    clock.now = 100.25
    assert timeouts.get("connect") == pytest.approx(0.75)
    assert timeouts.get("read") == pytest.approx(0.75 + GRACE_S)
    clock.now = 200.0
    assert 0 < timeouts.get("read") < 0.01
    assert 0 < sent_timeout_ms(send) < 10


def test_an_instance_that_swallows_packets_leaves_time_for_the_others(clock):
    slow = TransportFailure.from_exception(httpx.ConnectTimeout("no answer"), begun=False)
    play = Play(clock, dispatcher(timeout_ms=900), [slow, slow, GOOD], takes=0.3)
    until = [send.connect_deadline - 100 for send in play.sent]
    assert until == pytest.approx([0.3, 0.6, 0.9])
    assert play.hosts == "abc"


def test_a_deadline_that_passes_while_connecting_is_a_timeout(clock):
    with pytest.raises(TimedOut):
        Play(
            clock,
            dispatcher("http://a"),
            [TransportFailure("connection", "ConnectTimeout")],
            takes=1.1,
        )


@pytest.mark.parametrize(
    ("error", "begun", "kind"),
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
def test_what_httpx_raises_is_told_by_whether_an_answer_had_begun(error, begun, kind):
    assert TransportFailure.from_exception(error, begun).kind == kind


@pytest.mark.parametrize(
    ("candidates", "options", "kind"),
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
def test_what_cannot_be_sent_is_refused_before_anything_is(candidates, options, kind):
    with pytest.raises(kind):
        dispatcher(fallback=True).single(candidates, None, None, None, options)
    dispatcher().single(["a"], None, None, None, {"slate_size": 3, "context": {"hour": 1.0}})


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
    dispatcher().single(["a"], options={}, **good)
    with pytest.raises(ValueError, match=next(iter(changes))):
        dispatcher().single(["a"], options={}, **good | changes)


@pytest.mark.parametrize(
    "url",
    ["", "a:8000", "ftp://a", "http://", "http://a/?q=1", "http://a:port", "http://me:s3cret@a"],
)
def test_a_url_that_is_none_is_a_value_error_without_its_password(url):
    with pytest.raises(ValueError, match="urls") as raised:
        dispatcher(["http://a", url])
    assert "s3cret" not in str(raised.value)


def test_no_url_at_all_is_a_value_error():
    with pytest.raises(ValueError, match="urls"):
        dispatcher([])


@pytest.mark.parametrize("key", ["", "s3cret\n", "s3 cret", "s3crét"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key):
    with pytest.raises(ValueError, match="api_key") as raised:
        dispatcher(api_key=key)
    assert "s3cr" not in str(raised.value)


def test_the_key_is_in_no_repr(clock):
    dispatch = dispatcher(api_key="s3cret")
    play = Play(clock, dispatch, [GOOD])
    assert play.sent[0].headers["Authorization"] == "Bearer s3cret"
    for shown in (dispatch, play.sent[0], vars(dispatch), play.response):
        assert "s3cret" not in repr(shown)
