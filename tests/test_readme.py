"""README, quality.md and state.md: requests respond as printed, figures equal their reports."""

import contextlib
import io
import json
import re
from pathlib import Path

import httpx
import pytest

from export.bench.report import Figures
from model.data.intervals import format_interval
from rerank_client import Client
from service.engine.session import Session
from tests.support.bundles import BUNDLE
from tests.support.servers import fresh

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "docs" / "reports"
ARCHIVED = "archive/quality-2026-11"
README = (ROOT / "README.md").read_text(encoding="utf-8")
STATE = (ROOT / "docs" / "state.md").read_text(encoding="utf-8")
QUALITY = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
ONE_HEAD = (ROOT / "docs" / "decisions" / "one-head.md").read_text(encoding="utf-8")
MANIFEST = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))
SERVED = "**served bundle**, one seed"
PLAIN = "the same bundle without reasoning"
HOSTS = ("gru", "transformer")  # they see the list while they decode


def report_of(name):
    return json.loads((REPORTS / f"{name}.json").read_text(encoding="utf-8"))


def code_block(language):
    """Return the first block of the README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)[0]


def unwrapped(text):
    return " ".join(text.split())


def rows_of(text):
    """Return the cells of table rows that hold figures, by the first cell."""
    lines = [line for line in text.splitlines() if re.match(r"\| .*\| 0\.", line)]
    rows = [line.strip("| ").split(" | ") for line in lines]
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row[1:] for row in rows}


@pytest.fixture(scope="module")
def session():
    return Session.load(BUNDLE)


@pytest.fixture
def address(session, tmp_path):
    """The URL of a service with an empty entity store, as the first `make serve` has one."""
    with fresh(session, state=f"lmdb://{tmp_path}") as base:
        yield base


def test_the_curl_of_the_readme_responds_as_printed(address):
    body = re.findall(r"/rerank -d '\n(.*?)'\n```", README, re.DOTALL)[0]
    printed = json.loads(code_block("json"))
    response = httpx.post(f"{address}/rerank", content=body).raise_for_status().json()
    assert response.keys() == printed.keys()
    assert response["latency_ms"].keys() == printed["latency_ms"].keys()
    for name in ("request_id", "latency_ms"):  # these differ from call to call
        del response[name], printed[name]
    for entry, expected in zip(response["slate"], printed["slate"], strict=True):
        for name in ("logprob", "entropy", "entropy_after"):
            # Processors differ in the last digits.
            assert abs(entry.pop(name) - expected.pop(name)) < 1e-3
    threshold = response["reasoning"].pop("entropy_threshold")
    assert abs(threshold - printed["reasoning"].pop("entropy_threshold")) < 1e-3
    assert response == printed


def test_the_client_of_the_readme_prints_its_comments(address, monkeypatch):
    monkeypatch.setitem(Client.__init__.__kwdefaults__, "timeout_ms", 30_000)
    example = code_block("python")
    before, after = re.findall(r"^print\(.*\)  # (.*)$", example, re.MULTILINE)
    assert before != after  # feedback makes a difference
    code = example.replace("http://127.0.0.1:8000", address).replace(", timeout_ms=200", "")
    assert code.count(address) == 1
    names: dict[str, object] = {}
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "README.md", "exec"), names)
    client = names["client"]
    assert isinstance(client, Client)
    client.close()
    assert output.getvalue() == f"{before}\n{after}\n"


def test_the_liked_movie_of_the_readme_alone_changes_the_slate(address):
    (item,) = re.findall(r'like, passed = {"item": "(\d+)"', README)
    with Client(address, timeout_ms=30_000) as client:
        slates = [
            client.rerank(["1036", "47", "110", "588", "364"], user={"history": history})
            for history in ([], [item])
        ]
    assert slates[0].ids != slates[1].ids


def test_the_first_steps_of_the_state_page_respond_as_printed(address):
    section = STATE.split("## Try it\n")[1].split("\n## ")[0]
    (request,) = re.findall(r"/rerank -d '(.*?)'", section, re.DOTALL)
    (events,) = re.findall(r"/feedback -d '(.*?)'", section, re.DOTALL)
    (items,) = re.findall(r"/items --data-binary '(.*?)'", section, re.DOTALL)
    rows = re.findall(r"^\| (?:first|after .*?) \| `(\[.*?\])` \| (.*) \|$", section, re.MULTILINE)

    def rank():
        response = httpx.post(f"{address}/rerank", content=request).raise_for_status().json()
        return [entry["id"] for entry in response["slate"]], json.dumps(response["state"])

    responses = [rank()]
    assert httpx.post(f"{address}/feedback", content=events).json()["accepted"] == 2
    responses.append(rank())
    assert httpx.put(f"{address}/items", content=items).json()["written"] == 3
    responses.append(rank())
    assert len(rows) == len(responses)
    for (ids, state), (slate, printed) in zip(responses, rows, strict=True):
        assert ids == json.loads(slate)
        assert all(part in state for part in re.findall(r"`(.*?)`", printed))


def reported_rows():
    """Return NDCG@5, NDCG@10, MAP@10 and steps of the report on RankLens, warm, stand-alone."""
    report = (REPORTS / "quality.md").read_text(encoding="utf-8")
    section = report.split("## RankLens, warm, stand-alone")[1].split("\n#")[0]
    lines = re.findall(r"^\| [^|]+ \| \d+ \| 0\..*$", section, re.MULTILINE)
    rows = [line.strip("| ").split(" | ") for line in lines]
    return {row[0]: [*row[2:5], row[8]] for row in rows}


def served_row():
    """Return the figures of the committed bundle, in the order of the report."""
    metrics = MANIFEST["offline_metrics"]
    intervals = [format_interval(metrics[name]) for name in ("ndcg@5", "ndcg@10", "map@10")]
    return [*intervals, f"{metrics['reasoning_steps'][0]:.2f}"]


def test_the_table_of_the_quality_page_has_the_figures_of_the_report_and_the_manifest():
    rows = rows_of(QUALITY)
    assert rows.pop(SERVED) == served_row()
    assert len(rows) >= 11
    assert rows.items() <= reported_rows().items()


def test_the_table_of_the_readme_has_the_figures_of_the_report_and_the_manifest():
    rows = rows_of(README)
    expected = {
        name: [row[1], row[3]] for name, row in {**reported_rows(), SERVED: served_row()}.items()
    }
    plain = next(row for row in report_of("budget")["rows"] if row["budget"] == 0)
    expected[PLAIN] = [format_interval(plain["ndcg@10"]), f"{plain['steps'][0]:.2f}"]
    assert rows.keys() == {
        "random order", "shown order", "LambdaMART", "transformer host", "transformer EGLR", SERVED,
        PLAIN,
    }  # fmt: skip
    assert rows.items() <= expected.items()


@pytest.mark.parametrize("text", [README, QUALITY], ids=["README", "quality"])
def test_the_number_of_test_lists_is_that_of_the_manifest(text):
    assert f"{MANIFEST['offline_metrics']['lists']:,} held-out lists" in unwrapped(text)


def test_the_figure_that_evaluate_prints_is_that_of_the_manifest():
    figure = format_interval(MANIFEST["offline_metrics"]["ndcg@10"])
    assert f"prints NDCG@10 {figure}" in unwrapped(QUALITY)


def test_the_decision_for_one_head_has_the_figures_of_the_archived_report():
    report = (REPORTS / f"{ARCHIVED}.md").read_text(encoding="utf-8")
    validated = report.split("## Which configuration to serve")[1]
    differences = dict(re.findall(r"^\| ([^|]+) \| \d+ \| ([+-][\d.]+) \|$", validated, re.M))
    assert float(differences["one head"]) >= 0  # the cheapest of those not below EGLR
    page = unwrapped(ONE_HEAD)
    assert f"One head validates {differences['one head'].lstrip('+')} above EGLR" in page
    assert f"the highest validation score of all rows, {differences['stop gradient']}" in page
    assert max(differences.values(), key=float) == differences["stop gradient"]
    assert f"adds nothing ({differences['one head, stop gradient']})" in page
    lines = report.split("### Controls")[1].splitlines()
    (compared,) = (
        line for line in lines if line.startswith("| one head - transformer EGLR | ")
    )  # fmt: skip
    mean, low, high = re.findall(r"[+-][\d.]+", compared.split(" | ")[2])
    assert f"it is {mean.lstrip('-')} below, with an interval" in page
    assert f"({low} to {high})" in page


def test_the_training_time_in_the_readme_is_that_of_the_manifest():
    assert f"trained for {MANIFEST['training']['seconds']} s on one core" in unwrapped(README)


def test_the_manifest_says_that_the_rare_steps_of_the_readme_earn_nothing():
    gate = MANIFEST["gate"]
    assert "at the most uncertain twentieth of its choices" in unwrapped(README)
    assert (gate["rule"], gate["quantile"]) == ("--entropy-quantile", 1 - 1 / 20)
    assert "they earn nothing that can be measured" in gate["answer"]
    (chosen,) = (point for point in gate["curve"] if point["quantile"] == gate["quantile"])
    assert MANIFEST["entropy_threshold"] == pytest.approx(chosen["threshold"], abs=1e-6)


def test_the_decision_about_the_stage_has_the_validation_and_the_curve_of_the_manifest():
    page = (ROOT / "docs" / "decisions" / "served-stage.md").read_text(encoding="utf-8")
    best = MANIFEST["training"]["validation"]["final"]
    assert f"| warm start | `served.yaml` | {best['ndcg@10']:.4f} | {best['utility']:.4f} |" in page
    for point in MANIFEST["gate"]["curve"]:
        figures = [f"{point[name]:.4f}" for name in ("quality", "below_best", "standard_error")]
        ends = f"{point['threshold']:.3f} | {point['steps']:.1f}", f"{point['milliseconds']:.2f}"
        row = " | ".join([str(point["quantile"]), ends[0], *figures, ends[1]])
        assert f"| {row} |" in page


def test_the_decision_about_the_weight_has_the_figures_of_the_report():
    page = unwrapped(
        (ROOT / "docs" / "decisions" / "weight-of-diversity.md").read_text(encoding="utf-8")
    )
    report = report_of("diversity")
    validated = {
        (entry["method"], entry["scores"], entry["parameters"]): entry["validation alpha-ndcg@10"]
        for entry in report["parameters"]
        if entry["dataset"] == "RankLens, genres"
    }
    teacher = validated["xQuAD", "evaluator", "prior uniform, redundancy 0.5"]
    loop = validated["bonus in the loop", "generator", "law sum, decay 0.2"]
    assert f"is {teacher:.4f} for it and {loop:.4f} for the loop" in page
    (compared,) = (
        entry
        for entry in report["comparisons"]
        if (entry["dataset"], entry["method"]) == ("RankLens, genres", "xQuAD")
        and entry["scores"] == "evaluator"
    )
    assert format_interval(compared["alpha-ndcg@10"], signed=True) in page


def difference(report, split, model, against):
    """Return the paired difference of NDCG@10 or of worth, as the reports print it."""
    (comparison,) = (
        c for c in report_of(report)["comparisons"]
        if (c["split"], c["model"], c["against"]) == (split, model, against)
        and c["metric"] in ("ndcg@10", "worth")
        and (split == "all" or c.get("track", "stand-alone") == "stand-alone")
    )  # fmt: skip
    figures = [comparison[name] for name in ("mean_difference", "low", "high")]
    return format_interval(figures, signed=True)


@pytest.mark.parametrize(
    ("report", "split", "model", "against", "row"),
    [
        ("quality", "warm", "transformer EGLR", "transformer host",
         "| transformer EGLR | transformer host | RankLens, warm | {} |"),
        ("quality", "warm", "transformer EGLR", "LambdaMART",
         "| transformer EGLR | LambdaMART | RankLens, warm | {} |"),
        ("quality", "cold", "transformer EGLR", "LambdaMART",
         "| transformer EGLR | LambdaMART | RankLens, cold | {} |"),
        ("world", "test", "pointer eglr, every step", "pointer host",
         "| pointer EGLR, every step | pointer host | [world](reports/world.md) | {} |"),
        ("world", "test", "pointer eglr", "pointer host",
         "| pointer EGLR | pointer host | [world](reports/world.md) | {} |"),
        ("world_law", "test", "transformer eglr", "transformer host",
         "| transformer EGLR | transformer host "
         "| [world, rewarded by its law](reports/world_law.md) | {} |"),
        ("world_law", "test", "gru eglr", "gru host",
         "| GRU EGLR | GRU host | [world, rewarded by its law](reports/world_law.md) | {} |"),
        ("six_steps/world_law", "test", "transformer eglr", "transformer host",
         "| transformer EGLR | transformer host "
         "| [the same, six steps](reports/six_steps/world_law.md) | {} |"),
        ("six_steps/world_law", "test", "gru eglr", "gru host",
         "| GRU EGLR | GRU host | [the same, six steps](reports/six_steps/world_law.md) | {} |"),
    ],
)  # fmt: skip
def test_a_paired_difference_of_the_quality_page_is_that_of_the_report(
    report, split, model, against, row
):
    assert row.format(difference(report, split, model, against)) in QUALITY.splitlines()


def test_the_quality_page_has_no_other_paired_difference():
    assert len(re.findall(r"[+-]0\.\d{4} \[", QUALITY)) == 9


def searched(name):
    """Return learning from search on a data set, and its rows: (model, gate) -> figures."""
    (dataset,) = (d for d in report_of("quality")["search"]["datasets"] if d["name"] == name)
    return dataset, {(row["model"], row["gate"]): row for row in dataset["rows"]}


def test_the_paragraph_on_reasoning_in_the_readme_has_the_figures_of_the_reports():
    text = unwrapped(README)
    world, rows = searched("known world")
    host, eglr = rows["pointer host", "no step"], rows["pointer EGLR", "every step"]
    change = format_interval(eglr["regret - host"], signed=True, digits=5)
    assert f"from {host['regret'][0]:.5f} to {eglr['regret'][0]:.5f} ({change})" in text
    assert eglr["regret - host"][2] < 0  # it pays
    for token in ("zero", "learned"):
        assert rows[f"pointer {token} token", "every step"]["regret - host"][2] > 0
    seeing = [f"{rows[f'{name} host', 'no step']['regret'][0]:.5f}" for name in HOSTS]
    assert f"miss {' and '.join(seeing)} without a step" in text
    assert all(rows[f"{name} EGLR", "every step"]["regret - host"][2] > 0 for name in HOSTS)
    random = [entry["difference"] for entry in world["gates"] if entry["other"] == "random"]
    assert all(high < 0 for _, _, high in random)  # more than random steps do
    (left,) = (
        entry["left"]
        for entry in world["shares"]
        if (entry["model"], entry["share"]) == ("pointer EGLR", 0.5)
    )
    assert f"keeps {100 * left:.0f} % of that at half of the steps" in text
    logs = [
        searched(name)[1]["pointer EGLR", "every step"] for name in ("RankLens", "MovieLens-1M")
    ]
    short = [format_interval(row["regret - host"], signed=True, digits=5) for row in logs]
    assert f"(the share changes by {' and '.join(short)})" in text
    assert all(row["regret - host"][2] > 0 for row in logs)  # it earns nothing
    warm = difference("quality", "warm", "transformer EGLR", "transformer host")
    movies = difference("quality", "all", "transformer EGLR", "transformer host")
    assert f"EGLR is {warm} and {movies} to its plain host" in text
    assert len(re.findall(r"[+-]0\.\d{4,5} \[", text)) == 5


def test_the_cost_of_reasoning_in_the_readme_is_that_of_the_report():
    rows = {(r["gate"], r["budget"]): r["milliseconds"][0] for r in report_of("budget")["rows"]}
    full = MANIFEST["budget"]
    costs = [rows["of the bundle", 0], rows["of the bundle", full], rows["always open", full]]
    none, served, every = (f"{1e3 * cost:.0f} µs" for cost in costs)
    text = unwrapped(README)
    assert f"{none} without a step, {served} as served and {every} with every step" in text


def test_the_ideas_in_the_notes_have_the_figures_of_the_report():
    differences = {
        (c["model"], c["against"]): format_interval(
            [c[name] for name in ("mean_difference", "low", "high")], signed=True
        )
        for c in report_of(ARCHIVED)["comparisons"]
        if (c["dataset"], c["split"], c["track"]) == ("ranklens", "warm", "stand-alone")
        and c["metric"] == "ndcg@10"
    }
    notes = (REPORTS / "notes.md").read_text(encoding="utf-8")
    section = notes.split("## Ideas on RankLens")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if "[" in line]
    assert len(rows) >= 5
    for idea, to_eglr, to_host, _ in rows:
        assert to_eglr == differences[idea, "transformer EGLR"]
        assert to_host == differences[idea, "transformer host"]


def test_the_times_of_the_graph_in_the_readme_are_those_of_the_report():
    payload = report_of("inference")
    figures = Figures(payload["rows"])
    (ratio,) = (r for r in payload["ratios"] if r["batch"] == 1)
    native, gated = (
        [figures.ms(variant, 1), figures.ms(variant, 1, share=0.0)]
        for variant in ("native", "gated")
    )
    text = (
        f"{native[0]:.2f} ms of one core with every reasoning step taken and {native[1]:.2f} ms "
        f"with none, {ratio['torch eager / native']:.0f} times less than torch. Without a C++ "
        f"compiler the ONNX graph serves; it takes {gated[0]:.2f} ms and {gated[1]:.2f} ms"
    )
    assert text in unwrapped(README)
