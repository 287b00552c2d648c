"""Attempts, retries and outcomes of a call, without sockets and on a fake clock."""

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
from tests.support.scripted import response_to

URLS = ["http://a:1", "http://b:2/", "http://c:3"]
UNREACHABLE = TransportFailure("connection", "refused")
BODY = {"candidates": [{"id": "x"}]}
GOOD = HttpResponse(200, {}, json.dumps(response_to(BODY, "mine")).encode())


def status(code, **headers):
    return HttpResponse(
        code, httpx.Headers({k.replace("_", "-"): v for k, v in headers.items()}), b""
    )


@pytest.fixture
def clock(monkeypatch):
    """A monotonic clock that only a test or a pause advances."""
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(rerank_client.dispatch, "time", clock)
    return clock


class Replay:
    """One call against a sequence of outcomes.

    `sent` holds the attempts and `at` the second of the call at which each was sent.
    """

    def __init__(self, clock, dispatcher, outcomes, timeout_ms=None, takes=0.01, **options):
        began, call = clock.now, dispatcher.single(["x", "y"], timeout_ms, "mine", None, options)
        self.sent, self.at, outcome = [], [], None
        remaining = iter(outcomes)
        try:
            while True:
                send = call.send(outcome)
                clock.now += send.pause_s
                self.sent.append(send)
                self.at.append(clock.now - began)
                outcome = next(remaining)
                clock.now += takes
        except StopIteration as done:
            (self.response,) = done.value

    @property
    def hosts(self):
        return "".join(httpx.URL(send.url).host for send in self.sent)


def dispatcher(urls=URLS, timeout_ms=1000, fallback=False, api_key=None, seed=0):
    return Dispatcher(urls, timeout_ms, api_key, fallback, random.Random(seed))


def sent_timeout_ms(send):
    with httpx.Client() as http:
        return float(send.request(http).headers["X-Request-Timeout-Ms"])


def test_a_request_has_the_fields_that_were_passed_and_no_others(clock):
    options = {"slate_size": 1, "user": None, "explain": False, "context": {"hour": 0}}
    replay = Replay(clock, dispatcher(api_key="k3y"), [GOOD], **options)
    (send,) = replay.sent
    assert send.url == "http://a:1/rerank"
    assert json.loads(send.content) == {
        "candidates": [{"id": "x"}, {"id": "y"}], "slate_size": 1, "context": {"hour": 0}
    }  # fmt: skip
    assert send.headers["X-Request-ID"] == "mine"
    assert send.headers["Authorization"] == "Bearer k3y"
    assert "traceparent" not in send.headers
    assert (
        json.loads(Replay(clock, dispatcher(), [GOOD], explain=True).sent[0].content)["explain"]
        is True
    )


def test_the_base_url_may_have_a_path_and_a_slash_at_its_end(clock):
    send = Replay(clock, dispatcher("https://shop:8/rank/"), [GOOD]).sent[0]
    assert send.url == "https://shop:8/rank/rerank"


def test_the_next_instance_is_tried_at_once_after_a_lost_connection_and_after_a_503(clock):
    replay = Replay(clock, dispatcher(), [UNREACHABLE, status(503, Retry_After="9"), GOOD])
    assert replay.hosts == "abc"
    assert [send.pause_s for send in replay.sent] == [0, 0, 0]
    assert replay.response.degraded is None


def test_the_next_call_starts_with_the_instance_that_responded(clock):
    dispatch = dispatcher()
    assert Replay(clock, dispatch, [UNREACHABLE, GOOD]).hosts == "ab"
    assert Replay(clock, dispatch, [GOOD]).hosts == "b"
    assert Replay(clock, dispatch, [UNREACHABLE, UNREACHABLE, GOOD]).hosts == "bca"


def test_an_unreachable_instance_is_not_tried_twice(clock):
    with pytest.raises(Unavailable, match="attempts: 3, the last: refused") as raised:
        Replay(clock, dispatcher(), [UNREACHABLE] * 4)
    assert raised.value.request_id == "mine"
    with pytest.raises(Unavailable, match="attempts: 1,"):
        Replay(clock, dispatcher("http://a"), [UNREACHABLE] * 2)


def test_a_url_that_is_listed_twice_is_tried_twice(clock):
    assert Replay(clock, dispatcher(["http://a"] * 2), [UNREACHABLE, GOOD]).hosts == "aa"


def test_the_client_waits_for_retry_after_only_before_the_deadline(clock):
    busy = status(503, Retry_After="1")
    replay = Replay(clock, dispatcher("http://a", timeout_ms=1500), [busy, GOOD])
    assert 1.0 <= replay.at[1] <= 1.0 + 0.01 + 1.5 * BACKOFF_S
    assert replay.response.ids == ("x",)
    with pytest.raises(Unavailable, match="attempts: 1, the last: status 503"):
        Replay(clock, dispatcher("http://a", timeout_ms=900), [busy, GOOD])


def test_of_several_busy_instances_the_first_ready_one_is_tried_again(clock):
    busy = [status(503, Retry_After=seconds) for seconds in ("3", "1", "2")]
    replay = Replay(clock, dispatcher(timeout_ms=5000), [*busy, UNREACHABLE, GOOD])
    assert replay.hosts == "abcbc"  # b is unreachable by then
    assert replay.at[4] == pytest.approx(2.03, abs=3 * BACKOFF_S)


def test_retry_after_may_be_a_date_and_an_unreadable_value_counts_as_none(clock):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    late = Replay(
        clock, dispatcher("http://a", timeout_ms=5000), [status(503, Retry_After=date), GOOD]
    )
    assert 1.5 < late.at[1] < 3.2
    for nonsense in ("soon", "-5", "1.5", "inf"):
        replay = Replay(clock, dispatcher("http://a"), [status(503, Retry_After=nonsense), GOOD])
        assert replay.at[1] < 0.1


def test_retries_back_off_exponentially_with_jitter(clock):
    busy = [status(503)] * 3
    first, same, other = (
        Replay(clock, dispatcher("http://a", seed=seed), [*busy, GOOD]) for seed in (0, 0, 1)
    )
    assert first.at == pytest.approx(same.at)
    assert first.at != pytest.approx(other.at)
    for round_, send in enumerate(first.sent[1:]):
        assert 0.5 <= send.pause_s / (BACKOFF_S * 2**round_) <= 1.5


@pytest.mark.parametrize("code", [400, 401, 404, 413, 422, 429, 500, 502, 504, 302, 204])
def test_no_other_status_is_retried(clock, code):
    with pytest.raises((Refused, Failed, TimedOut)):
        Replay(clock, dispatcher(), [status(code), GOOD])


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
def test_a_failure_returns_the_initial_ranking_or_raises_its_cause(clock, outcome, kind, reason):
    brief = {"timeout_ms": 20, "takes": 0.011}  # too short for the backoff
    with pytest.raises(kind) as raised:
        Replay(clock, dispatcher("http://a"), [outcome], **brief)
    assert raised.value.reason == reason
    response = Replay(
        clock, dispatcher("http://a", fallback=True), [outcome], slate_size=1, **brief
    ).response
    assert response.degraded == f"client: {reason}"
    assert response.ids == ("x",)
    assert (response.request_id, response.model, response.raw) == ("mine", None, {})
    assert response.latency_ms == {"total": pytest.approx(11)}


@pytest.mark.parametrize("code", [400, 404, 413, 422, 429])
def test_a_refusal_is_raised_with_and_without_fallback(clock, code):
    for fallback in (True, False):
        with pytest.raises(Refused) as raised:
            Replay(clock, dispatcher(fallback=fallback), [status(code)])
        assert raised.value.status == code


def test_every_attempt_sends_the_time_that_is_left(clock):
    dispatch = dispatcher(timeout_ms=500)
    call = dispatch.single(["x"], None, None, None, {})
    timeouts_ms = []
    outcome = None
    for _ in range(3):
        send = call.send(outcome)
        timeouts_ms.append(sent_timeout_ms(send))
        clock.now += 0.1
        outcome = UNREACHABLE
    assert timeouts_ms == pytest.approx([500, 400, 300])


def test_a_call_may_override_the_deadline_of_the_client(clock):
    (send,) = Replay(clock, dispatcher(), [GOOD], timeout_ms=70).sent
    assert send.deadline == pytest.approx(100.07)
    assert send.give_up_at == pytest.approx(100.07 + GRACE_S)


def test_httpx_timeouts_are_what_is_left_when_a_phase_begins_and_never_zero(clock):
    send = Replay(clock, dispatcher("http://a"), [GOOD]).sent[0]
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
    replay = Replay(clock, dispatcher(timeout_ms=900), [slow, slow, GOOD], takes=0.3)
    until = [send.connect_deadline - 100 for send in replay.sent]
    assert until == pytest.approx([0.3, 0.6, 0.9])
    assert replay.hosts == "abc"


def test_a_deadline_that_passes_while_connecting_is_a_timeout(clock):
    with pytest.raises(TimedOut):
        Replay(
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
def test_an_exception_of_httpx_becomes_the_right_kind_of_failure(error, begun, kind):
    assert TransportFailure.from_exception(error, begun).kind == kind


@pytest.mark.parametrize(
    ("candidates", "options", "kind"),
    [
        ([], {}, ValueError),
        ("abc", {}, ValueError),
        ([True], {}, TypeError),
        ([{"id": 7.5}], {}, TypeError),
        ([{"features": {}}], {}, TypeError),
        (["a"], {"slate_sise": 3}, TypeError),
        (["a"], {"context": {"hour": float("nan")}}, ValueError),
        (["a"], {"constraints": {"blocked": {"a"}}}, TypeError),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_sent(candidates, options, kind):
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
        {"request_id": " a"},
        {"request_id": "a" * 129},
        {"traceparent": "a\r\nHost: b"},
    ],
)
def test_an_invalid_deadline_or_header_is_a_value_error(changes):
    good = {"timeout_ms": 5, "request_id": "a" * 128, "traceparent": "00-0af7-b7ad-01"}
    dispatcher().single(["a"], options={}, **good)
    with pytest.raises(ValueError, match=next(iter(changes))):
        dispatcher().single(["a"], options={}, **good | changes)


@pytest.mark.parametrize(
    "url",
    ["", "a:8000", "ftp://a", "http://", "http://a/?q=1", "http://a:port", "http://me:s3cret@a"],
)
def test_an_invalid_url_is_a_value_error_without_its_password(url):
    with pytest.raises(ValueError, match="urls") as raised:
        dispatcher(["http://a", url])
    assert "s3cret" not in str(raised.value)


def test_an_empty_list_of_urls_is_a_value_error():
    with pytest.raises(ValueError, match="urls"):
        dispatcher([])


@pytest.mark.parametrize("key", ["", "s3cret\n", "s3 cret", "s3crét"])
def test_an_error_about_an_illegal_key_does_not_contain_the_key(key):
    with pytest.raises(ValueError, match="api_key") as raised:
        dispatcher(api_key=key)
    assert "s3cr" not in str(raised.value)


def test_the_key_is_in_no_repr(clock):
    dispatch = dispatcher(api_key="s3cret")
    replay = Replay(clock, dispatch, [GOOD])
    assert replay.sent[0].headers["Authorization"] == "Bearer s3cret"
    for value in (dispatch, replay.sent[0], vars(dispatch), replay.response):
        assert "s3cret" not in repr(value)
