"""The service under test: a running one, or one that is started for the measurement."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from loadtest.commands import Target
from loadtest.errors import UsageError
from loadtest.scenarios import Catalogue, RequestOptions, Scenario, scenario
from loadtest.server import serving


@contextlib.contextmanager
def target_url(options: Target, **settings: object) -> Iterator[str]:
    """Yield the URL of the options, or that of a service started with the settings."""
    if options.url is not None:
        yield options.url.rstrip("/")
        return
    with serving(options.bundle, f"--workers={options.workers}", **settings) as server:
        yield server.url


def scenarios_of(options: Target) -> list[Scenario]:
    """Return the scenarios of the options. Raises UsageError when the bundle does not fit."""
    catalogue = Catalogue.of(options.bundle)
    require_candidates(options.candidates, catalogue, options.bundle)
    requests = RequestOptions(options.candidates)
    return [scenario(name, catalogue, requests) for name in options.scenario]


def require_candidates(candidates: int, catalogue: Catalogue, bundle: Path) -> None:
    """Raise UsageError for lists that are longer than the bundle's items or its limit."""
    limit = min(len(catalogue.ids), catalogue.longest)
    if not 1 <= candidates <= limit:
        raise UsageError(f"--candidates: 1 to {limit} for {bundle}, got {candidates}")


def with_settings(command_line: str, options: Target) -> str:
    """Prepend the settings that a started service takes from the environment."""
    names = sorted(name for name in os.environ if name.startswith("RERANK_"))
    settings = [f"{name}={os.environ[name]}" for name in names] if options.url is None else []
    return " ".join([*settings, command_line])
