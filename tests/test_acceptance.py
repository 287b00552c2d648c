"""The committed bundle on held-out lists, over HTTP."""

import pytest

from model.learning.evaluate import evaluate, http_ranker
from service.engine.session import Session
from tests.support.bundles import BUNDLE
from tests.support.servers import fresh


def test_the_bundle_beats_shown_order_and_item_like_rate_and_has_the_metrics_of_its_manifest(
    whole_ranklens,
):
    session = Session.load(BUNDLE)
    with fresh(session) as url:
        result = evaluate(session, whole_ranklens, "test", http_ranker(url))
    print(result)
    for _, low, _ in result["ndcg@10 gain over"].values():
        assert low > 0
    claimed = session.manifest.offline_metrics
    assert claimed.keys() <= result.keys()
    assert claimed["ndcg@10 gain over"].keys() == result["ndcg@10 gain over"].keys()
    assert result["lists"] == claimed["lists"]
    for name in ("ndcg@5", "ndcg@10", "map@10"):
        # A tie that rounds the other way on another processor moves one list of 1,812.
        assert result[name] == pytest.approx(claimed[name], abs=1e-3)
        assert result[name] != pytest.approx([x + 5e-3 for x in claimed[name]], abs=1e-3)
