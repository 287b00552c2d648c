"""Models, canaries and shadows of a store, behind a real server."""

import asyncio
import random
import shutil
import threading

import pytest

from service.engine.contract import INTENT_FILES, BundleError
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.models.store import ServingConfig, in_canary
from service.settings import Settings
from tests.support.fakes import CountingTracer, Slow
from tests.support.stores import (
    copy_bundle,
    metric_value,
    post_rerank,
    served_version,
    shuffled_bundle,
    store_server,
    update_hashes,
    wait_until,
)


def test_a_store_without_bundles_and_an_unknown_default_model_are_refused(store, tmp_path):
    (tmp_path / "empty").mkdir()
    for settings in (
        Settings(models=tmp_path / "absent"),
        Settings(models=tmp_path / "empty"),
        Settings(models=store, default_model="other"),
    ):
        with pytest.raises(BundleError, match=r"absent|empty|RERANK_DEFAULT_MODEL"):
            Fleet.load(settings, Metrics())


def test_a_configured_bundle_whose_path_differs_from_its_manifest_is_refused(store):
    shutil.copytree(store / "ranklens" / "1", store / "ranklens" / "2")
    ServingConfig("2").write(store / "ranklens")
    message = "ranklens/2: the manifest says ranklens/1; a bundle must lie at NAME/VERSION"
    with pytest.raises(BundleError, match=message):
        Fleet.load(Settings(models=store), Metrics())


def test_a_version_may_be_a_symbolic_link(store, tmp_path):
    shutil.move(store / "ranklens" / "1", tmp_path / "some-digest")
    (store / "ranklens" / "1").symlink_to(tmp_path / "some-digest")
    fleet = Fleet.load(Settings(models=store), Metrics())
    assert fleet.models["ranklens"].active.manifest.version == "1"


def test_a_request_is_answered_by_the_model_that_it_names(store):
    copy_bundle(store, "ranklens", "2")
    copy_bundle(store, "another", "7")
    with store_server(store, default_model="ranklens") as (client, _):
        model = post_rerank(client).json()["model"]
        assert model == {"name": "ranklens", "version": "2", "variant": "active"}
        model = post_rerank(client, model="another").json()["model"]
        assert model == {"name": "another", "version": "7", "variant": "active"}
        refused = post_rerank(client, model="third")
        assert refused.status_code == 422
        (error,) = refused.json()["errors"]
        assert error == {
            "field": "model", "rule": "one of another, ranklens", "value": '"third"',
        }  # fmt: skip
        body = {"candidates": ["10", "100"]}
        lists = [{**body, "model": name} for name in ("another", "ranklens", "another")]
        answer = client.post("/rerank/batch", json={"requests": lists}).raise_for_status().json()
        names = [response["model"]["name"] for response in answer["responses"]]
        assert names == ["another", "ranklens", "another"]
        lists[1]["model"] = "third"
        refused = client.post("/rerank/batch", json={"requests": lists})
        assert refused.json()["errors"][0]["field"] == "requests[1].model"
    with store_server(store) as (client, _):  # by default the first by name
        assert post_rerank(client).json()["model"]["name"] == "another"


def test_the_canary_gets_the_same_users_every_time(store):
    copy_bundle(store, "ranklens", "2")
    ServingConfig("1", "2", 0.3).write(store / "ranklens")
    users = [f"u{i}" for i in range(40)]
    with store_server(store) as (client, _):
        models = {user: post_rerank(client, user=user).json()["model"] for user in users}
        again = {user: post_rerank(client, user=user).json()["model"] for user in users}
        anonymous = post_rerank(client).json()["model"]
        canaries = {user for user, model in models.items() if model["variant"] == "canary"}
        labels = 'rerank_requests_total{model="ranklens",outcome="ok",variant="%s",version="%s"}'
        assert metric_value(client, labels % ("canary", "2")) == 2 * len(canaries)
        assert metric_value(client, labels % ("active", "1")) == 2 * (40 - len(canaries)) + 1
    assert models == again
    assert canaries == {user for user in users if in_canary("ranklens", user, 0.3)}
    for user, model in models.items():
        assert model["version"] == ("2" if user in canaries else "1")
    assert anonymous == {"name": "ranklens", "version": "1", "variant": "active"}


SHADOW = 'rerank_shadow_total{model="ranklens",outcome="%s",version="2"}'


def test_a_shadow_ranks_the_same_lists_and_never_answers(store):
    copy_bundle(store, "ranklens", "2")
    ServingConfig("1", shadow="2").write(store / "ranklens")
    with store_server(store) as (client, fleet):
        assert {served_version(client) for _ in range(5)} == {"1"}
        wait_until(lambda: metric_value(client, SHADOW % "same_slate") == 5)
        shadow = fleet.models["ranklens"].deployments["2"].session
        shadow.run = None  # so that every call fails
        assert served_version(client) == "1"
        assert post_rerank(client).json()["degraded"] is None
        wait_until(lambda: metric_value(client, SHADOW % "failed") == 2)


def test_a_shadow_gets_the_options_of_the_request(store, items):
    copy_bundle(store, "ranklens", "2")
    ServingConfig("1", shadow="2").write(store / "ranklens")
    options = (
        {"reasoning": {"entropy_threshold": -1}, "temperatures": {"reason": 100}},
        {"reasoning": {"entropy_threshold": 100}},
        {"reasoning": {"budget": 0}},
        {"slate_size": 3},
        {"constraints": {"pinned": {items[7]: 0}, "blocked": [items[0]]}},
        {"diversity": {"by": "genres", "weight": 2}},
    )
    draw = random.Random(0)
    with store_server(store) as (client, _):
        for option in options:
            for _ in range(6):
                history = draw.sample(items, 20)
                payload = {"candidates": items[:8] + draw.sample(items[8:], 40), **option}
                answer = client.post("/rerank", json={**payload, "user": {"history": history}})
                answer.raise_for_status()
        wait_until(lambda: metric_value(client, SHADOW % "same_slate") == 6 * len(options))


def bundle_without_intent(store, version):
    """Copy the bundle of a store to another version, without its graphs of intent."""
    directory = copy_bundle(store, "ranklens", version)
    for name in INTENT_FILES:
        (directory / name).unlink()
    update_hashes(directory)


def test_a_canary_without_intent_refuses_it_for_the_users_of_the_canary_alone(store):
    bundle_without_intent(store, "2")
    ServingConfig("1", canary="2", share=0.5).write(store / "ranklens")
    users = [f"user-{i}" for i in range(20)]
    of_canary = [user for user in users if in_canary("ranklens", user, 0.5)]
    assert 0 < len(of_canary) < len(users)
    with store_server(store) as (client, _):
        for user in users:
            response = post_rerank(client, user=user, diversity={"by": "genres"})
            refused = "ranklens/2 was exported without it" in response.text
            expected = (422, True) if user in of_canary else (200, False)
            assert (response.status_code, refused) == expected
            post_rerank(client, user=user).raise_for_status()


def test_a_shadow_without_intent_skips_lists_that_have_one(store):
    bundle_without_intent(store, "2")
    ServingConfig("1", shadow="2").write(store / "ranklens")
    with store_server(store) as (client, _):
        post_rerank(client, diversity={"by": "genres"}).raise_for_status()
        wait_until(lambda: metric_value(client, SHADOW % "skipped") == 1)
        post_rerank(client).raise_for_status()
        wait_until(lambda: metric_value(client, SHADOW % "same_slate") == 1)


def test_a_shadow_that_ranks_differently_is_counted_as_different(store, items):
    shuffled_bundle(store, "ranklens", "2")
    ServingConfig("1", shadow="2").write(store / "ranklens")
    with store_server(store) as (client, _):
        for start in range(0, 300, 50):
            post_rerank(client, candidates=items[start : start + 50]).raise_for_status()
        wait_until(lambda: metric_value(client, SHADOW % "different") == 6)
        post_rerank(client, candidates=items[:1]).raise_for_status()
        wait_until(lambda: metric_value(client, SHADOW % "same_slate") == 1)


def test_a_fleet_that_closes_does_not_wait_for_a_graph_that_is_being_opened(session):
    class Opening(CountingTracer):
        began, opened = threading.Event(), False

        def open(self):
            self.began.set()
            self.go.wait(5)
            self.opened = True
            return True

    copy = Slow(session, 0.0)
    copy.tracer = tracer = Opening(None)
    tracer.go.clear()
    fleet = Fleet.of(copy, Settings(preload_steps=True), Metrics())

    async def start_and_close():
        fleet.start()
        assert await asyncio.to_thread(tracer.began.wait, 60)
        await fleet.close()
        return tracer.opened

    try:
        assert not asyncio.run(start_and_close())
    finally:
        tracer.go.set()
