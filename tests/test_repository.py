"""The checkout: sizes, pins, help, versions, and links between documents."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
# A new name at the root is a decision; a log or schema there was left by a command.
TOP_LEVEL = {
    ".ci", ".dockerignore", ".editorconfig", ".gitignore", ".pre-commit-config.yaml",
    "CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile", "LICENSE", "Makefile", "NOTICE", "README.md",
    "SECURITY.md", "bundles", "client", "constraints.txt", "data", "deploy", "docker-compose.yml",
    "docs", "examples", "export", "loadtest", "model", "native", "pages", "peers", "pyproject.toml",
    "service", "tests",
}  # fmt: skip
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def tracked():
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def anchors_of(path):
    """Return the anchors that the headings of a Markdown file have."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}


def test_tracked_files_stay_small():
    sizes = {path: path.stat().st_size for path in tracked()}
    assert max(sizes.values()) < 6_000_000
    assert sum(sizes.values()) < 60_000_000


def test_nothing_unexpected_lies_at_the_root():
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} - TOP_LEVEL == set()


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
    targets = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split()
    printed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for target in targets:
        assert re.search(rf"^  make {target} +\S", printed, re.MULTILINE)


def test_the_first_released_section_of_the_changelog_is_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    assert released[0] == VERSION
    for version in released:
        assert f"\n[{version}]: " in changelog


def test_every_link_between_documents_leads_to_a_file_and_heading():
    broken = []
    for path in tracked():
        if path.suffix != ".md" or path.parent.name == "templates":
            continue
        for target, anchor in LINK.findall(path.read_text(encoding="utf-8")):
            linked = (path.parent / target).resolve() if target else path
            if not linked.exists() or (anchor and anchor not in anchors_of(linked)):
                broken.append(f"{path.relative_to(ROOT)}: {target}#{anchor}")
    assert broken == []


def test_the_index_of_the_documentation_links_every_page():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = {target for target, _ in LINK.findall(index)}
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    expected = {str(page) for page in pages if page.parts[0] != "decisions"} - {"README.md"}
    assert expected - linked == set()


def test_the_index_of_the_decisions_links_every_page():
    decisions = ROOT / "docs" / "decisions"
    index = (decisions / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in decisions.glob("*.md")} - {"README.md"}
    assert {target for target, _ in LINK.findall(index)} == pages
    assert len(pages) >= 12


def test_every_hook_of_a_commit_runs_a_program_of_the_environment():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    for repository in config["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            assert hook["language"] == "system"
            assert hook["entry"].startswith(".venv/bin/")


def test_no_progress_bar_is_drawn_where_stderr_is_no_terminal():
    bars = []
    for path in tracked():
        if path.suffix != ".py" or path == Path(__file__):
            continue
        text = path.read_text(encoding="utf-8")
        if "tqdm" in text or "trange" in text:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tqdm", "trange"):
                    bars.append((path.name, {k.arg: ast.unparse(k.value) for k in node.keywords}))
    assert len(bars) > 15
    assert [name for name, options in bars if "None" not in options.get("disable", "")] == []
