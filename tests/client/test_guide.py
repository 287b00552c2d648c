"""The examples in docs/client.md print what the guide says."""

import re
from pathlib import Path

import pytest

from rerank_client import AsyncClient, Client
from tests.support.scripted import PATIENT_MS
from tests.support.servers import fresh

GUIDE = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
PRINTED = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def url(session, tmp_path_factory):
    """The URL of a service with an entity store."""
    with fresh(session, state=f"lmdb://{tmp_path_factory.mktemp('state')}") as base:
        yield base


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_prints_its_comments(example, url, down, capsys, monkeypatch):
    for kind in (Client, AsyncClient):
        monkeypatch.setitem(kind.__init__.__kwdefaults__, "timeout_ms", PATIENT_MS)
    live = example.replace("http://127.0.0.1:8000", url).replace('"http://127.0.0.1:9"', repr(down))
    live = live.replace("timeout_ms=200", f"timeout_ms={PATIENT_MS}")
    names: dict[str, object] = {}
    exec(compile(live, "docs/client.md", "exec"), names)
    for value in names.values():
        if isinstance(value, Client):
            value.close()
    expected = PRINTED.findall(example)
    assert capsys.readouterr().out.splitlines() == expected
    assert len(expected) == example.count("print(") > 0


def test_every_fence_of_the_guide_is_an_example():
    assert GUIDE.count("```") == 2 * len(EXAMPLES) > 0
