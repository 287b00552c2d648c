"""API keys and quotas, on a fake clock and over HTTP."""

import logging
import os

import httpx
import pytest

from service.errors import Forbidden, QuotaExceeded, Unauthorized
from service.http.security import CHECK_INTERVAL_S, Keys, KeysError, Quota, read_keys
from tests.support.bodies import body, problem_of
from tests.support.servers import fresh

OLD, NEW, OTHER = "old-key-0123456789", "new-key-0123456789", "other-key-0123456789"


class Clock:
    """A clock that tests advance."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def write_file(path, text):
    """Write a file and advance its modification time by a second."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))
    return path


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_a_key_names_its_client_and_a_client_may_have_several_keys(tmp_path):
    text = f"# clients\n\nshop:{OLD}\nshop: {NEW} \nfeed:{OTHER}\n"
    keys = Keys(write_file(tmp_path / "keys", text))
    assert [keys.client(f"Bearer {key}") for key in (OLD, NEW, OTHER)] == ["shop", "shop", "feed"]
    assert keys.client(f"bearer  {OLD}") == "shop"
    for missing in (None, "", OLD, f"Basic {OLD}", "Bearer", "Bearer "):
        with pytest.raises(Unauthorized):
            keys.client(missing)
    for wrong in (OLD[:-1], OLD + "x", OLD.upper(), "\u00e9" * 20, "shop"):
        with pytest.raises(Forbidden):
            keys.client(f"Bearer {wrong}")


def test_a_rotated_key_counts_from_the_next_look_at_the_file(tmp_path):
    clock, path = Clock(), write_file(tmp_path / "keys", f"shop:{OLD}\n")
    keys = Keys(path, clock)
    write_file(path, f"shop:{NEW}\n")
    clock.now += 0.99 * CHECK_INTERVAL_S
    assert keys.client(f"Bearer {OLD}") == "shop"
    with pytest.raises(Forbidden):
        keys.client(f"Bearer {NEW}")
    clock.now += 0.02 * CHECK_INTERVAL_S
    assert keys.client(f"Bearer {NEW}") == "shop"
    with pytest.raises(Forbidden):
        keys.client(f"Bearer {OLD}")


def test_a_file_that_changes_during_a_read_is_read_again(tmp_path, monkeypatch):
    clock, path = Clock(), write_file(tmp_path / "keys", f"shop:{OLD}\n")

    def read_and_replace(file):
        digests = read_keys(file)
        write_file(path, f"shop:{NEW}\n")
        return digests

    with monkeypatch.context() as patched:
        patched.setattr("service.http.security.read_keys", read_and_replace)
        keys = Keys(path, clock)
    clock.now += 2 * CHECK_INTERVAL_S
    assert keys.client(f"Bearer {NEW}") == "shop"


@pytest.mark.parametrize("broken", ["shop:short", "no separator at all", "", "# nobody\n", None])
def test_a_file_that_becomes_invalid_leaves_the_loaded_keys_until_it_is_repaired(
    tmp_path, broken, caplog
):
    clock, path = Clock(), write_file(tmp_path / "keys", f"shop:{OLD}\n")
    keys = Keys(path, clock)
    if broken is None:
        path.unlink()
    else:
        write_file(path, broken)
    clock.now += 2 * CHECK_INTERVAL_S
    assert keys.client(f"Bearer {OLD}") == "shop"
    clock.now += 2 * CHECK_INTERVAL_S
    keys.client(f"Bearer {OLD}")
    (warning,) = [
        record.getMessage() for record in caplog.records
    ]  # once, although the file was checked twice
    assert "the keys loaded before stay valid" in warning
    assert OLD not in warning
    write_file(path, f"shop:{NEW}\n")
    os.utime(path, ns=(10**18, 10**18))
    clock.now += 2 * CHECK_INTERVAL_S
    assert keys.client(f"Bearer {NEW}") == "shop"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "shop:short-secret-1\n",
            "keys:1: expected NAME:KEY with a key of at least 16 ASCII characters",
        ),
        (
            f"a:{OLD}\n:{NEW}\n",
            "keys:2: expected NAME:KEY with a key of at least 16 ASCII characters",
        ),
        (
            "just-a-secret-without-a-name\n",
            "keys:1: expected NAME:KEY with a key of at least 16 ASCII characters",
        ),
        (
            "shop:a-key-of-caf\u00e9-and-more\n",
            "keys:1: expected NAME:KEY with a key of at least 16 ASCII characters",
        ),
        ("# nobody\n", "keys: contains no key, add a line NAME:KEY"),
        (None, "keys: cannot be read (No such file or directory)"),
    ],
)
def test_an_invalid_file_is_refused_without_revealing_a_key(tmp_path, text, message):
    path = tmp_path / "keys"
    if text is not None:
        path.write_text(text)
    with pytest.raises(KeysError) as refused:
        Keys(path)
    assert str(refused.value) == f"{tmp_path}/{message}"
    (tmp_path / "latin").write_bytes(b"shop:\xe9\xe9" + OLD.encode())
    with pytest.raises(KeysError, match="not UTF-8"):
        read_keys(tmp_path / "latin")


def test_a_key_of_minimum_length_is_accepted_and_only_its_digest_is_kept(tmp_path):
    keys = Keys(write_file(tmp_path / "keys", f"shop:{'k' * 16}\n"))
    assert keys.client("Bearer " + "k" * 16) == "shop"
    with pytest.raises(KeysError):
        Keys(write_file(tmp_path / "short", f"shop:{'k' * 15}\n"))
    assert "k" * 16 not in repr(vars(keys))


def test_a_quota_allows_a_burst_and_then_refills_at_its_rate():
    clock = Clock()
    quota = Quota(5.0, clock)  # bursts of ten
    for _ in range(10):
        quota.spend("shop", 1)
    with pytest.raises(QuotaExceeded) as refused:
        quota.spend("shop", 1)
    assert refused.value.retry_after_s == 1
    quota.spend("feed", 10)  # every client has its own bucket
    clock.now += 0.19
    with pytest.raises(QuotaExceeded):
        quota.spend("shop", 1)
    clock.now += 0.02  # 1.05 refilled; the refusals took nothing
    quota.spend("shop", 1)
    clock.now += 1000  # the bucket holds no more than a burst
    quota.spend("shop", 10)
    with pytest.raises(QuotaExceeded):
        quota.spend("shop", 1)


def test_the_same_call_is_accepted_after_retry_after():
    clock = Clock()
    quota = Quota(2.0, clock)  # bursts of four
    quota.spend("shop", 4)
    with pytest.raises(QuotaExceeded) as refused:
        quota.spend("shop", 3)
    assert refused.value.retry_after_s == 2  # 1.5 s, rounded up
    clock.now += 1.4
    with pytest.raises(QuotaExceeded):
        quota.spend("shop", 3)
    clock.now += 0.6
    quota.spend("shop", 3)


def test_a_batch_larger_than_a_burst_needs_a_full_bucket_and_leaves_a_debt():
    clock = Clock()
    quota = Quota(2.0, clock)
    quota.spend("shop", 10)  # six more than the burst of four
    with pytest.raises(QuotaExceeded) as refused:
        quota.spend("shop", 1)
    assert refused.value.retry_after_s == 4  # seven tokens at two a second
    clock.now += 3.4
    with pytest.raises(QuotaExceeded):
        quota.spend("shop", 1)
    clock.now += 0.2
    quota.spend("shop", 1)
    with pytest.raises(QuotaExceeded) as refused:
        quota.spend("shop", 10)
    assert refused.value.retry_after_s == 2


def test_a_quota_below_one_list_per_second_still_allows_one_list():
    clock = Clock()
    quota = Quota(0.1, clock)
    quota.spend("shop", 1)
    with pytest.raises(QuotaExceeded) as refused:
        quota.spend("shop", 1)
    assert refused.value.retry_after_s == 10
    clock.now += 10
    quota.spend("shop", 1)


def test_ranking_requires_a_key_and_neither_responses_nor_logs_contain_one(
    session, items, tmp_path, caplog
):
    caplog.set_level(logging.DEBUG)
    path = write_file(tmp_path / "keys", f"shop:{OLD}\n")
    wrong, responses = "wrong-key-0123456789", []
    with fresh(session, api_keys_file=path, log_requests=True) as url, httpx.Client(
        base_url=url, timeout=30
    ) as client:  # fmt: skip
        for path_ in ("/rerank", "/v1/rerank", "/rerank/batch", "/v1/rerank/batch"):
            payload = body(items) if "batch" not in path_ else {"requests": [body(items)]}
            missing = client.post(path_, json=payload)
            assert problem_of(missing, 401)["code"] == "unauthorized"
            assert missing.headers["www-authenticate"] == "Bearer"
            forbidden = client.post(path_, json=payload, headers=bearer(wrong))
            assert problem_of(forbidden, 403)["code"] == "forbidden"
            assert "www-authenticate" not in forbidden.headers
            accepted = client.post(path_, json=payload, headers=bearer(OLD))
            assert accepted.status_code == 200
            responses += [missing, forbidden, accepted]
        responses += [client.get(page) for page in ("/livez", "/readyz", "/info", "/metrics")]
        assert {page.status_code for page in responses[-4:]} == {200}  # these need no key
    message = "".join(f"{response.headers}{response.text}" for response in responses)
    assert "answered" in caplog.text
    for secret in (OLD, wrong):
        assert secret not in message
        assert secret not in caplog.text
        assert all(secret not in repr(vars(record)) for record in caplog.records)


def test_a_client_over_its_quota_gets_429_with_retry_after(session, items, tmp_path):
    path = write_file(tmp_path / "keys", f"shop:{OLD}\nshop:{NEW}\nfeed:{OTHER}\n")
    with fresh(session, api_keys_file=path, quota_rps=0.5) as url, httpx.Client(
        base_url=url, timeout=30
    ) as client:  # fmt: skip
        many = {"requests": [body(items, 3, seed) for seed in range(3)]}
        assert client.post("/rerank/batch", json=many, headers=bearer(OLD)).status_code == 200
        for key in (OLD, NEW):  # keys of one name share its quota
            refused = client.post("/rerank", json=body(items), headers=bearer(key))
            assert problem_of(refused, 429)["code"] == "quota"
            assert 1 <= int(refused.headers["retry-after"]) <= 6
        assert client.post("/rerank", json=body(items), headers=bearer(OTHER)).status_code == 200
        text = client.get("/metrics").text
    assert 'rerank_shed_total{reason="quota"} 2.0' in text
