"""Plots in pages: names and descriptions for screen readers, ids of their own, equal bytes."""

import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from pages.figures import drawn, embedded, inline, save


@pytest.fixture
def figure():
    figure = Figure(figsize=(4, 3))
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [1, 3], label="a < b")
    left.set(title="Left", xlabel="time (s)", ylabel="p99 (ms)")
    left.legend()
    right.set_visible(False)
    return figure


def test_an_inline_figure_is_named_and_described(figure):
    svg = ElementTree.fromstring(inline(drawn(figure), "Latency & load", "figure-1"))
    names = svg.get("aria-labelledby", "").split()
    texts = {element.get("id"): element.text for element in svg if element.get("id") in names}
    assert [texts[name] for name in names] == [
        "Latency & load",
        "Left; x: time (s); y: p99 (ms); series: a < b.",
    ]
    assert svg.get("role") == "img"


def test_every_panel_that_is_visible_is_described(figure):
    figure.axes[1].set_visible(True)
    figure.axes[1].set_title("Right")
    assert "Panel 1: Left; " in drawn(figure)
    assert "Panel 2: Right." in drawn(figure)


def test_two_figures_of_a_page_share_no_id(figure):
    ids = [
        set(re.findall(r'\bid="([^"]+)"', inline(drawn(figure), "Title", name)))
        for name in ("figure-1", "figure-2")
    ]
    assert len(ids[0]) == len(ids[1]) > 5
    assert not ids[0] & ids[1]


def test_every_reference_of_a_figure_has_its_target(figure):
    text = inline(drawn(figure), "Title", "figure-1")
    targets = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    assert targets
    assert targets <= set(re.findall(r'\bid="([^"]+)"', text))


def test_text_of_a_figure_stays_text(figure):
    assert ">time (s)</text>" in drawn(figure)


def test_the_suffix_chooses_the_format_and_equal_figures_give_equal_files(figure, tmp_path):
    for name, start in (("a.svg", b"<?xml"), ("a.png", b"\x89PNG")):
        save(figure, tmp_path / name)
        first = (tmp_path / name).read_bytes()
        save(figure, tmp_path / name)
        assert first.startswith(start)
        assert (tmp_path / name).read_bytes() == first


def test_a_png_is_inside_of_the_page(tmp_path):
    (tmp_path / "a.png").write_bytes(b"abc")
    assert embedded(tmp_path / "a.png", 'a "b"') == (
        '<img alt="a &#34;b&#34;" src="data:image/png;base64,YWJj">'
    )
