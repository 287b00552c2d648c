"""Markdown of a report as HTML: text stays text, tables scroll and have columns of numbers."""

from pages.markdown import convert

TABLE = """# Title

| name | value | note |
|---|---|---|
| b | 1,234.5 [1,200, 1,300] | 1 |
| a | −0.5 | none |
| c | - | two |
"""


def html(text, draw=lambda address, alternative: "", link=str):
    return convert(text, draw, link).body


def test_the_first_heading_is_the_title_and_the_second_level_the_contents():
    document = convert("# A `b`\n\n## One\n\n### Deep\n\n## One\n", lambda *_: "", str)
    assert document.title == "A b"
    assert [(heading.id, heading.text) for heading in document.headings] == [
        ("one", "One"),
        ("one-1", "One"),
    ]
    assert '<h3 id="deep">Deep</h3>' in document.body
    assert "<h1" not in document.body


def test_raw_html_is_shown_as_text():
    body = html("# T\n\n<script>alert(1)</script> <b>x</b>\n")
    assert "<script" not in body
    assert "<b>" not in body
    assert "&lt;script&gt;" in body


def test_a_link_to_a_script_is_no_link():
    assert "href" not in html("[x](javascript:alert(1))\n")


def test_only_columns_of_numbers_stand_right():
    body = html(TABLE)
    assert body.count('class="number"') == 4  # the heading and three cells of one column
    assert '<th scope="col" class="number">value</th>' in body
    assert "<td>two</td>" in body


def test_a_table_scrolls_by_keyboard_under_the_name_of_its_section():
    body = html('# Title\n\n## A "b" & c\n\n' + TABLE.partition("\n\n")[2])
    region = '<div class="table" role="region" tabindex="0" '
    assert f'{region}aria-label="Table 1: A &#34;b&#34; &amp; c">\n<table>' in body
    assert "</table>\n</div>" in body


def test_a_paragraph_of_one_image_is_a_figure_and_its_text_the_caption():
    body = html("![a < b](plot.png)\n", draw=lambda address, text: f"[{address}|{text}]")
    assert body == ("<figure>\n[plot.png|a < b]\n<figcaption>a &lt; b</figcaption>\n</figure>\n")


def test_links_get_the_address_of_the_page():
    assert 'href="x.html"' in html("[x](x.md)\n", link=lambda address: "x.html")
