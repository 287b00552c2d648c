"""Every setting, with what it does and how to choose it; environment variables RERANK_*."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from RERANK_* variables; the command line wins."""

    model_config = SettingsConfigDict(env_prefix="RERANK_", extra="forbid")

    bundle: Path = Field(
        Path("bundles/ranklens/1"), description="The bundle to serve, NAME/VERSION below a store."
    )
    models: Path | None = Field(
        None, description="A store of bundles, NAME/VERSION, to serve and follow instead of one."
    )
    default_model: str | None = Field(
        None, description="The store's model for requests that name none; else the first by name."
    )
    watch_s: float = Field(
        2.0, ge=0, description="How often the store is looked at; 0: only the admin routes change."
    )
    probation_s: float = Field(
        60.0, ge=0, description="How long a new version is watched for failures; 0: never."
    )
    rollback_failures: int = Field(
        5, ge=1, description="Failed lists before a new version goes back by itself."
    )
    rollback_share: float = Field(
        0.05, ge=0, le=1, description="And the share of its answers that they must exceed."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(
        1, ge=1, description="Processes, each with a core of its own; no more than there are cores."
    )
    threads: int = Field(
        1, ge=1, description="Intra-op threads of a run; `python -m export tune` measures how many."
    )
    spinning: bool = Field(
        False, description="Threads that wait burn their core; only for a machine of one's own."
    )
    profile: Path | None = Field(
        None, description="What `python -m export tune` wrote; settings given elsewhere win."
    )
    provider: Literal["cpu", "cuda"] = Field(
        "cpu", description="Where the graph runs; cuda refuses to start where it would not."
    )
    max_batch_size: int = Field(
        16, ge=1, description="Most requests in one run; more raises throughput and latency."
    )
    max_queue: int = Field(
        256, ge=1, description="Most requests waiting; about deadline times requests per second."
    )
    batch_window_ms: float = Field(
        0.0, ge=0, description="How long a run waits for company; 0 suits one core, it only waits."
    )
    brief_run_ms: float = Field(
        10.0, ge=0, description="A run expected to be shorter is made on the loop; 0: in a thread."
    )
    adaptive_budget: bool = Field(
        True, description="Reason less as lists wait or deadlines press, before any is shed."
    )
    target_wait_ms: float = Field(
        10.0, gt=0, description="Two runs in a row of a longer wait lower the budget by one."
    )
    recover_s: float = Field(
        1.0, gt=0, description="Calm before the budget rises by one; longer swings less."
    )
    max_body_bytes: int = Field(
        1 << 20, ge=1024, description="Largest body; 500 candidates with features take 100 kB."
    )
    max_lists_per_call: int = Field(
        64, ge=1, description="Most lists in one /rerank/batch call; a page of carousels has 20."
    )
    max_history: int = Field(
        1000, ge=0, description="Most history entries taken in; the model reads its own limit."
    )
    timeout_ms: float = Field(
        1000.0, gt=0, description="Deadline where a request gives none; your caller's own budget."
    )
    on_failure: Literal["initial_ranking", "error"] = Field(
        "initial_ranking",
        description="What a late, shed or failed request gets: its own order back, or an error.",
    )
    body_timeout_s: float = Field(
        5.0, gt=0, description="How long a client may take to send head and body, before 408."
    )
    drain_s: float = Field(
        0.0, ge=0, description="After SIGTERM: serve on unready for so long, until nobody asks."
    )
    shutdown_s: float = Field(
        10.0, gt=0, description="Then: how long requests in flight may take to finish."
    )
    api_keys_file: Path | None = Field(
        None, description="Lines NAME:KEY of who may ask; read again when it changes. None: anyone."
    )
    admin_keys_file: Path | None = Field(
        None, description="Lines NAME:KEY of who may change models. None: no admin routes at all."
    )
    quota_rps: float | None = Field(
        None, gt=0, description="Lists per second of one key, in bursts of two seconds. None: any."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="json for machines, console to read."
    )
    log_requests: bool = Field(False, description="A line for each call; no bodies, no user ids.")
    tracing: Literal["off", "otlp"] = Field(
        "off", description="otlp exports spans as OTEL_EXPORTER_OTLP_* say (group `tracing`)."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line that is written."
    )


def with_profile(settings: Settings) -> Settings:
    """The settings with what their profile says and nobody else does.

    Raises OSError or ValueError for a profile that cannot be read, naming it.
    """
    if settings.profile is None:
        return settings
    try:
        payload = json.loads(settings.profile.read_bytes())
        profile = {name: payload[name] for name in ("threads", "spinning", "max_batch_size")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{settings.profile}: no profile of this service ({error!r})") from error
    explicit = {name: getattr(settings, name) for name in settings.model_fields_set}
    return Settings(**{**profile, **explicit})


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """RERANK_* variables that are no setting: most likely misspelt."""
    names = {f"RERANK_{name.upper()}" for name in Settings.model_fields}
    return sorted(
        name for name in environment if name.upper().startswith("RERANK_") and name not in names
    )


def describe(settings: Settings) -> str:
    """One line per setting: variable, value, description."""
    lines = []
    for name, field in Settings.model_fields.items():
        lines.append(f"RERANK_{name.upper()}={getattr(settings, name)}  # {field.description}")
    return "\n".join(lines)
