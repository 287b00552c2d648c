"""docs/service.md: the requests about diversity and steps respond as printed."""

import json
import re

from service.engine.intent import MAX_CELLS, MAX_SLATE_CELLS
from tests.support.bundles import ROOT

PAGE = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
SECTION = PAGE.split("### Diversity and boosts\n")[1].split("\n### ")[0]
STEPS = PAGE.split("### Steps of reasoning\n")[1].split("\n## ")[0]
CLOSE = 1e-3  # nats: processors differ in the last digits


PROGRAM = ".slate[] | [.id, .logprob] + (.explanation | [.boost, .diversity, .instead_of])"


def printed_rows(result):
    """Return what PROGRAM prints of a response."""
    return [
        [entry["id"], entry["logprob"]]
        + [entry["explanation"][name] for name in ("boost", "diversity", "instead_of")]
        for entry in result["slate"]
    ]


def is_close(one, other):
    if isinstance(one, float) or isinstance(other, float):
        return abs(one - other) < CLOSE
    return one == other


def differences(rows, expected):
    """Return the pairs of cells that differ."""
    pairs = [zip(row, other, strict=True) for row, other in zip(rows, expected, strict=True)]
    return [pair for cells in pairs for pair in cells if not is_close(*pair)]


def test_the_curl_about_diversity_responds_as_printed(client):
    assert f"jq -c '{PROGRAM}'" in SECTION
    (body,) = re.findall(r"/rerank -d '\n(.*?)' \|\n", SECTION, re.DOTALL)
    (block,) = re.findall(r"^```json\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)
    expected = [json.loads(line) for line in block.splitlines()]
    rows = printed_rows(client.post("/rerank", content=body).raise_for_status().json())
    assert len(rows) == json.loads(body)["slate_size"]
    assert differences(rows, expected) == []
    payload = json.loads(body) | {"diversity": {"by": "genres", "weight": 0.49}}
    other = printed_rows(client.post("/rerank", json=payload).raise_for_status().json())
    assert differences(other, expected) != []


def printed_states(result):
    """Return what the program about steps prints of a response."""
    return [
        [state["entropy"], state["choice"], state["changed"], state["choices"][0]["probability"]]
        for state in result["slate"][1]["explanation"]["steps"]
    ]


def test_the_curl_about_steps_responds_as_printed(client):
    program = (
        ".slate[1].explanation.steps[] | [.entropy, .choice, .changed, .choices[0].probability]"
    )
    assert f"jq -c '{program}'" in STEPS
    (body,) = re.findall(r"/rerank -d '\n(.*?)' \|\n", STEPS, re.DOTALL)
    (block,) = re.findall(r"^```json\n(.*?)^```", STEPS, re.DOTALL | re.MULTILINE)
    expected = [json.loads(line) for line in block.splitlines()]
    rows = printed_states(client.post("/rerank", content=body).raise_for_status().json())
    assert differences(rows, expected) == []
    assert differences(rows[1:], expected[:-1]) != []


def test_the_limits_and_defaults_of_the_page_are_those_of_the_schema(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    fields = schemas["Diversity"]["properties"]
    for name in ("weight", "decay", "law"):
        assert f"| `diversity.{name}` | `{fields[name]['default']}` |" in SECTION
    assert "up to four such objects" in SECTION
    section = SECTION.replace("\n", " ")
    assert f"at most {MAX_CELLS:,} for a list" in section
    assert f"at most {MAX_SLATE_CELLS:,}, which is {MAX_SLATE_CELLS // 64:,} for each" in section
    boost = next(t for t in schemas["Candidate"]["properties"]["boost"]["anyOf"] if "maximum" in t)
    assert f"nats from {boost['minimum']:g} to {boost['maximum']:g}" in SECTION


def test_the_defaults_are_those_that_the_report_on_diversity_advises(client):
    report = json.loads((ROOT / "docs" / "reports" / "diversity.json").read_text("utf-8"))
    advice = next(row for row in report["advice"] if row["dataset"] == "RankLens, genres")
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for name in ("weight", "decay", "law"):
        assert schemas["Diversity"]["properties"][name]["default"] == advice[name]
