"""The distribution's metadata, and the import name of 0.1."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rerank_client

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]


def test_the_client_depends_on_httpx_alone_and_has_the_version_of_the_service():
    assert [name.split(">")[0] for name in PROJECT["dependencies"]] == ["httpx"]
    service = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert PROJECT["version"] == service["version"]
    assert PROJECT["requires-python"] == service["requires-python"]


def test_the_distribution_carries_the_licence_of_the_repository_and_marks_itself_as_typed():
    assert (ROOT / "client" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (ROOT / "client" / "rerank_client" / "py.typed").is_file()


def test_the_old_import_name_gives_every_name_of_the_client_with_a_deprecation_warning():
    sys.modules.pop("client", None)
    with pytest.warns(DeprecationWarning, match="import `rerank_client`"):
        import client
    renamed = {"Reranked": "RerankResponse", "Wishes": "RequestOptions"}
    for name in client.__all__:
        assert getattr(client, name) is getattr(rerank_client, renamed.get(name, name))


def test_the_old_import_name_works_from_a_checkout_that_is_not_installed(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from client import Client; print(Client)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "<class 'rerank_client.clients.Client'>\n"
    assert "DeprecationWarning" in done.stderr
