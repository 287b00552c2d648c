"""The verdict of compare and its remarks."""

import json

import pytest

from loadtest.cli import run_command


def written(path, p99=5.0, rates=(100,), **more):
    runs = [
        {"asked_rps": rate, "latency_ms": {"p50": 2.0, "p99": p99}, "achieved_rps": float(rate)}
        for rate in rates
    ]
    path.write_text(json.dumps({"machine": "m", "runs": runs, **more}))
    return str(path)


def capacity(path, repeats):
    mean = sum(repeats) / len(repeats)
    return written(
        path, capacity_rps=mean, low=min(repeats), high=max(repeats), repeats=repeats
    )  # fmt: skip


def test_the_exit_status_says_that_the_second_report_is_worse(tmp_path, capsys):
    before, after = written(tmp_path / "a.json"), written(tmp_path / "b.json", p99=6.0)
    assert run_command("compare", [before, before]) == 0
    assert run_command("compare", [before, after]) == 1
    assert "p99 ms at 100/s" in capsys.readouterr().out
    assert run_command("compare", [after, before]) == 0
    assert run_command("compare", [before, after, "--tolerance", "0.3"]) == 0


def test_unranked_requests_and_lost_throughput_are_worse(tmp_path, capsys):
    before = written(tmp_path / "a.json")
    report = json.loads((tmp_path / "a.json").read_text())
    report["runs"][0] |= {"unranked": 7, "achieved_rps": 0.0}
    (tmp_path / "c.json").write_text(json.dumps(report))
    assert run_command("compare", [before, str(tmp_path / "c.json")]) == 1
    assert capsys.readouterr().out.count(" worse") == 2


def test_a_capacity_is_worse_only_where_the_repeats_do_not_overlap(tmp_path):
    before = capacity(tmp_path / "a.json", [80, 120])
    near = capacity(tmp_path / "b.json", [70, 90])
    far = capacity(tmp_path / "c.json", [65, 75])
    assert [run_command("compare", [before, each]) for each in (near, far)] == [0, 1]


def test_single_runs_are_said_not_to_show_the_noise(tmp_path, capsys):
    rates = written(tmp_path / "a.json")
    run_command("compare", [rates, rates])
    assert "noise unknown: bench runs each rate once" in capsys.readouterr().out
    single = capacity(tmp_path / "b.json", [100])
    repeated = capacity(tmp_path / "c.json", [80, 120])
    run_command("compare", [single, repeated])
    assert f"noise unknown: {single}: one search" in capsys.readouterr().out
    run_command("compare", [repeated, repeated])
    assert "noise unknown" not in capsys.readouterr().out


def test_rates_in_one_report_only_are_listed(tmp_path, capsys):
    before = written(tmp_path / "a.json", rates=(50, 100, 200))
    after = written(tmp_path / "b.json", rates=(100, 400))
    assert run_command("compare", [before, after]) == 0
    output = capsys.readouterr().out
    assert f"only in {before}: 50/s, 200/s\n" in output
    assert f"only in {after}: 400/s\n" in output


def test_reports_that_cannot_be_compared_are_refused(tmp_path, capsys):
    report = written(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"runs": []}')
    (tmp_path / "c.json").write_text("{}")
    written(tmp_path / "e.json", scenario="history")
    capacity(tmp_path / "f.json", [80, 120])
    written(tmp_path / "g.json", capacity_rps=None)
    for other, message in (
        ("b.json", "no rate is in both"), ("c.json", "not a report"), ("d", "d"),
        ("e.json", "scenario differs"), ("f.json", "one is a report of capacity"),
        ("g.json", "interrupted before one search ended"),
    ):  # fmt: skip
        assert run_command("compare", [report, str(tmp_path / other)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("tolerance", ["-0.1", "nan"])
def test_a_tolerance_below_0_is_refused(tmp_path, capsys, tolerance):
    report = written(tmp_path / "a.json")
    assert run_command("compare", [report, report, f"--tolerance={tolerance}"]) == 2
    assert "--tolerance: must be a number of at least 0" in capsys.readouterr().err
