"""`python -m model report --html`: pages of committed reports, of this package and others."""

import re

from model.__main__ import main
from model.study.html_pages import DRAWINGS, OTHERS
from tests.support.bundles import ROOT

REPORTS = ROOT / "docs" / "reports"
# Plots that pages have as committed: of the export, and of an archive whose code is gone.
COMMITTED = {"inference.png", "best_of_m.png"}


def pages(directory, *names):
    arguments = ["report", "--html", *names, "--out", str(REPORTS), "--pages", str(directory)]
    return main(arguments)


def test_pages_of_every_package_have_their_plots_as_svg(tmp_path, capsys):
    names = ["six_steps/world_law", "budget", "overload"]
    assert pages(tmp_path, *names) == 0
    written = [tmp_path / f"{name}.html" for name in names]
    assert capsys.readouterr().out.split() == [str(path) for path in written]
    for path in written:
        text = path.read_text("utf-8")
        assert (text.count("<svg"), text.count("<img"), text.count("<desc")) == (1, 0, 1)
        assert "<table" in text


def test_a_report_that_does_not_exist_is_refused_in_one_line(tmp_path, capsys):
    assert pages(tmp_path, "budgets") == 2
    assert "no report 'budgets'; it has " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_page_of_a_package_that_is_not_installed_has_the_committed_plot(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert pages(tmp_path, "peers") == 0
    text = (tmp_path / "peers.html").read_text("utf-8")
    assert (text.count("<svg"), text.count("<img")) == (0, 1)


def test_every_plot_of_a_committed_report_has_a_drawing():
    drawn = {*DRAWINGS, *(f"{name}.png" for names in OTHERS.values() for name in names)}
    missing = {
        image
        for path in REPORTS.rglob("*.md")
        for image in re.findall(r"^!\[[^]]*\]\(([^)]+)\)$", path.read_text("utf-8"), re.MULTILINE)
        if image not in drawn and (path.parent / image).is_file()
    }
    assert missing == COMMITTED
