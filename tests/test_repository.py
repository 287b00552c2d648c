"""The checkout itself: sizes, pins, help."""

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def tracked():
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_tracked_files_stay_small():
    sizes = {path: path.stat().st_size for path in tracked()}
    assert max(sizes.values()) < 6_000_000
    assert sum(sizes.values()) < 60_000_000


def test_every_dependency_is_pinned():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    for entries in groups.values():
        for entry in entries:
            if isinstance(entry, str):
                assert re.fullmatch(r"[A-Za-z0-9_.-]+==[\w.]+", entry)
                assert entry.lower() in [line.lower().replace("_", "-") for line in constraints]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[\w.]+", line) for line in constraints)


def test_make_help_has_a_line_for_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    printed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for target in targets:
        assert re.search(rf"^  make {target} +\S", printed, re.MULTILINE)
