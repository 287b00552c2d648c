"""Traffic of the shop of `tests.support.sales` whose users now look at the brand too."""

import numpy as np

from service.engine.features.candidates import CandidateList
from service.journal.records import Bundle, Policy
from tests.support.journals import decision, event
from tests.support.sales import ITEMS, SHOWN

SEEN = (1.0, 0.9, 0.8, 0.6, 0.4, 0.2)  # share of the users who look at a position
BLOCK = 32  # lists of one run of a session


def chance(item, price, place):
    """Return the probability of a like: of a low price as before, and now of the brand b0."""
    return SEEN[place] / (1.0 + np.exp(5.0 * price - 5.0 * (item % 3 == 0) + 0.2))


def traffic(sessions, requests, seed):
    """Return a decision for each request, and the likes of what it displayed.

    Args:
        sessions: of the versions of a store.
        requests: (user, ms since 1970 UTC, version) of each list.
    """
    draw, records = np.random.default_rng(seed), []
    for version, session in sessions.items():
        wanted = [(user, at) for user, at, of in requests if of == version]
        lists = [candidates(draw, user) for user, _ in wanted]
        rows = [session.row(each) for each in lists]
        blocks = (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
        slates = [slate for block in blocks for slate in session.run(block)]
        for (user, at), each, slate in zip(wanted, lists, slates, strict=True):
            records += records_of(draw, session, version, user, at, each, slate)
    return records


def candidates(draw, user):
    """Draw a list of items with prices of its own."""
    items = draw.choice(ITEMS, SHOWN, replace=False).tolist()
    prices = draw.random(SHOWN).tolist()
    features = [{"price": price, "brand": f"b{item % 3}", "tags": ["old"]}
                for item, price in zip(items, prices, strict=True)]  # fmt: skip
    return CandidateList([f"i{item}" for item in items], prices, features, user_id=user)


def records_of(draw, session, version, user, at, each, slate):
    """Return the decision about one list, and its likes."""
    manifest = session.manifest
    policy = Policy(
        "greedy", None, 0.0, manifest.budget, manifest.budget, manifest.entropy_threshold,
        manifest.reason_temperature, manifest.recommend_temperature,
    )  # fmt: skip
    request, displayed = f"{user}-{at}", slate.indices.tolist()
    records = [
        decision(
            at, user, at, request, bundle=Bundle("sale", version, session.digest), policy=policy,
            ids=each.ids, scores=each.scores, features=each.features, slate=displayed,
            logprob=slate.logprob.tolist(), entropy_before=slate.entropy_before.tolist(),
            entropy_after=slate.entropy_after.tolist(), steps=slate.steps.tolist(),
        )
    ]  # fmt: skip
    for place, index in enumerate(displayed):
        item, features = each.ids[index], each.features[index]
        if draw.random() < chance(int(item[1:]), features["price"], place):
            records.append(event(f"{at}-{place}", user, at + 1000, request, item=item, label=1.0))
    return records
