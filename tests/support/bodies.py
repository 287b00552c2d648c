"""Request bodies, and assertions on responses."""

import random


def body(items, size=24, seed=0, **more):
    chosen = random.Random(seed).sample(items, size)
    return {"candidates": [{"id": i} for i in chosen], **more}


def slate_ids(answer):
    return [entry["id"] for entry in answer["slate"]]


def problem_of(response, status):
    assert response.status_code == status, response.text[:300]
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return problem
