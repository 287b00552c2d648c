"""Calls that a program makes, counted from outside."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from loadtest.calls import COUNTED, by_function, package_of, read_counts, short

ROOT = Path(__file__).parents[2]
PROGRAM = """
    import sys

    def outer(times):
        for _ in range(times):
            inner()

    def inner():
        bytearray(1 << 20).clear()

    for line in sys.stdin:
        outer(int(line))
        print("done", flush=True)
"""


@pytest.fixture
def program(tmp_path):
    """A program that is counted and calls `inner` a number of times; its socket's path."""
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    path = str(tmp_path / "calls")
    process = subprocess.Popen(
        [sys.executable, str(COUNTED), path, sys.executable, "-m", "program"],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    to_program, from_program = process.stdin, process.stdout
    with process:

        def call(times):
            to_program.write(f"{times}\n")
            to_program.flush()
            assert from_program.readline() == "done\n"

        yield path, call
        to_program.close()


def test_calls_between_two_readings_are_those_of_the_work_between_them(program):
    path, call = program
    call(3)
    before = read_counts(path)
    call(5)
    after = read_counts(path)
    python, into_c = (by_function(after, column) for column in (2, 3))
    python.subtract(by_function(before, 2))
    into_c.subtract(by_function(before, 3))
    inner = "the standard library/program.py:inner"
    assert python[inner] == into_c[inner] == 5
    assert python["the standard library/program.py:outer"] == 1


def test_memory_is_the_peak_since_the_previous_reading(program):
    path, call = program
    call(1)
    read_counts(path)
    call(2)
    assert 1 << 20 <= read_counts(path)["peak"] < 2 << 20
    assert read_counts(path)["peak"] < 1 << 20


@pytest.mark.parametrize(
    ("file", "package"),
    [
        ("/a/site-packages/uvicorn/server.py", "uvicorn"),
        ("/repository/service/http/api.py", "service/http"),
        ("/usr/lib/python3.11/uuid.py", "the standard library"),
    ],
)
def test_a_function_belongs_to_the_package_of_its_file(file, package):
    assert package_of(f"{short(file)}:f") == package


def test_the_calls_of_the_documentation_are_those_of_the_report():
    page = (ROOT / "docs" / "decisions" / "fewer-calls.md").read_text(encoding="utf-8")
    report = json.loads((ROOT / "docs" / "reports" / "calls.json").read_text())
    assert all(commit in page for commit in report["commits"].values())
    times = json.loads((ROOT / "docs" / "reports" / "cpu_calls.json").read_text())
    assert all(commit in page for commit in times["commits"].values())
    calls, cpu = (
        {(row["case"], row["scenario"]): row for row in each["rows"]} for each in (report, times)
    )
    for name in ("ids", "history", "returning"):
        before, after = calls["before", name], calls["after", name]
        cells = [
            f"{row[column]:.0f}"
            for column in ("python_calls", "c_calls")
            for row in (before, after)
        ]
        assert f"| `{name}` | {' | '.join(cells)} |" in page
        ranges = (cpu[case, name]["outside_ms"] for case in ("before", "after"))
        cells = [f"{mean:.2f} [{least:.2f}, {greatest:.2f}]" for mean, least, greatest in ranges]
        assert f"| `{name}` | {' | '.join(cells)} |" in page
