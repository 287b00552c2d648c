"""The settings of the service: environment variables RERANK_*, each with a description."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from service.journal.settings import JournalSettings
from service.state.address import Address, parse_address

PREFIX = "RERANK_"
SECRETS = ("RERANK_STATE", "RERANK_JOURNAL")  # whose values no message repeats
# Kubernetes sets such variables for every Service of a namespace, as Docker does for links. Those
# of a Service named `rerank` have the prefix of settings: RERANK_PORT=tcp://10.0.0.1:80.
LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")
LINK_NAME = re.compile(
    r"RERANK(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)

# Libraries of the service read these at their import, and what other programs of the machine mean
# by them harms it: metrics of other processes in /metrics, a propagator that is not installed.
FOREIGN_VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir", "OTEL_PROPAGATORS")


class Environment(EnvSettingsSource):
    """The variables of the environment, without empty values and service links."""

    def __call__(self) -> dict[str, Any]:
        """Return the raw values by the name of their setting."""
        return {
            name: value
            for name, value in super().__call__().items()
            if not isinstance(value, str) or (value.strip() and not LINK_VALUE.match(value))
        }


def _state(value: object) -> object:
    if not isinstance(value, str):
        return value
    return "off" if value.strip().lower() == "off" else parse_address(value)


class ServiceSettings(BaseSettings):
    """The settings of all but the journal; read as a part of `Settings`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", allow_inf_nan=False)

    bundle: Path = Field(
        Path("bundles/ranklens/1"),
        description="Bundle to serve. Ignored if RERANK_MODELS is set.",
    )
    models: Path | None = Field(
        None,
        description="Store of bundles, NAME/VERSION, to serve and watch for changes. "
        "Set it to change versions without a restart.",
    )
    default_model: str | None = Field(
        None,
        description="Model for requests that name none; default: the first name in the store. "
        "Set it if the store holds several models.",
    )
    watch_s: float = Field(
        2.0,
        ge=0,
        description="Seconds between looks at the store. 0: only the admin routes change versions.",
    )
    probation_s: float = Field(
        60.0,
        ge=0,
        description="Seconds after a change in which failures roll it back. 0: never.",
    )
    rollback_failures: int = Field(
        5,
        ge=1,
        description="Failed lists before a new version is rolled back. Raise it if single lists "
        "may fail.",
    )
    rollback_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of a new version's lists (0 to 1) that the failures must also exceed.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on. Use 0.0.0.0 in a container.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on. 0: any free port.")
    workers: int = Field(
        1,
        ge=1,
        le=1024,
        description="Worker processes. Raise it to use more cores, one core per worker.",
    )
    threads: int = Field(
        1,
        ge=1,
        le=1024,
        description="Intra-op threads of a run. `python -m export tune` measures the best number.",
    )
    spinning: bool = Field(
        False,
        description="Let waiting threads spin. Enable it only if no other process needs the cores.",
    )
    profile: Path | None = Field(
        None,
        description="File written by `python -m export tune`, with threads, spinning and batch "
        "size. Explicit settings take precedence.",
    )
    provider: Literal["cpu", "cuda"] = Field(
        "cpu",
        description="Device that runs the graph. With cuda the service refuses to start without "
        "a GPU.",
    )
    backend: Literal["auto", "onnx", "native"] = Field(
        "auto",
        description="Code that decodes slates. auto: the native library where it is installed and "
        "gives the graph's slates, else the graph; native: refuse to start without it. Use onnx to "
        "compare.",
    )
    max_batch_size: int = Field(
        16,
        ge=1,
        le=4096,
        description="Maximum slates in one run. Raise it for throughput, lower it for latency.",
    )
    max_queue: int = Field(
        256,
        ge=1,
        description="Maximum lists in the queue. Choose about lists per second times the deadline "
        "in seconds.",
    )
    batch_window_ms: float = Field(
        0.0,
        ge=0,
        description="Milliseconds that a run waits for more lists. Leave 0 on one core; raise it "
        "where larger batches are cheaper.",
    )
    brief_run_ms: float = Field(
        10.0,
        ge=0,
        description="Runs expected to be shorter, in milliseconds, stay on the event loop; longer "
        "ones use a thread. 0: always a thread.",
    )
    adaptive_budget: bool = Field(
        True,
        description="Reduce the reasoning budget under load, before lists are shed. Disable it for "
        "reproducible slates.",
    )
    target_wait_ms: float = Field(
        10.0,
        gt=0,
        description="If two consecutive batches waited longer, in milliseconds, the budget falls "
        "by one step. Raise it on a shared machine.",
    )
    recover_s: float = Field(
        1.0,
        gt=0,
        description="Seconds of calm before the budget rises by one step. Raise it if the "
        "budget oscillates.",
    )
    max_body_bytes: int = Field(
        1 << 20,
        ge=1024,
        description="Maximum body in bytes. Raise it for long lists with many inline features.",
    )
    max_lists_per_call: int = Field(
        64,
        ge=1,
        description="Maximum lists in one /rerank/batch call. Raise it if a page needs more lists.",
    )
    max_history: int = Field(
        1000,
        ge=0,
        description="Maximum history entries of a request. The model reads only its own limit of "
        "them.",
    )
    history_cache_mb: float = Field(
        16.0,
        ge=0,
        le=65536,
        description="Megabytes of prepared histories that each loaded bundle keeps in each worker. "
        "Raise it if more users return within minutes than fit. 0: none.",
    )
    timeout_ms: float = Field(
        1000.0,
        gt=0,
        description="Deadline in milliseconds for requests; a request can only shorten it. Set it "
        "to the time your caller waits.",
    )
    on_failure: Literal["initial_ranking", "error"] = Field(
        "initial_ranking",
        description="Response to a late, shed or failed list: its initial ranking, or an error. "
        "Use error if the caller has a fallback of its own.",
    )
    max_traces: int = Field(
        16,
        ge=0,
        description='Lists of `explain: "steps"` that may wait for their steps at each worker; '
        "further ones are answered without. 0: refuse such lists.",
    )
    preload_steps: bool = Field(
        False,
        description='Open the graphs of `explain: "steps"` when a bundle is loaded, beside the '
        "requests, instead of for the first such list. Unless set, RERANK_PLAYGROUND enables it.",
    )
    body_timeout_s: float = Field(
        5.0,
        gt=0,
        description="Seconds that a client may take to send a head, and then a body. Raise it for "
        "slow networks.",
    )
    drain_s: float = Field(
        0.0,
        ge=0,
        description="Seconds to keep serving, unready, after SIGTERM. Choose longer than a load "
        "balancer takes to notice.",
    )
    shutdown_s: float = Field(
        10.0,
        gt=0,
        description="Seconds that requests in flight may take to finish once the drain is over. "
        "Choose longer than the longest deadline.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="File of API keys, a line NAME:KEY each; changes are noticed. Without it, "
        "everyone may rank.",
    )
    admin_keys_file: Path | None = Field(
        None,
        description="File of admin keys, a line NAME:KEY each. Without it there are no admin "
        "routes.",
    )
    quota_rps: float | None = Field(
        None,
        gt=0,
        description="Lists per second of one API key at each worker, in bursts of two seconds. "
        "Without it, no quota.",
    )
    state: Annotated[Address | Literal["off"], NoDecode, BeforeValidator(_state)] = Field(
        "off",
        description="Entity store, which knows users and items by id: lmdb:///DIRECTORY for one "
        "host, redis://HOST:PORT/DATABASE for several.",
    )
    state_timeout_ms: float = Field(
        5.0,
        gt=0,
        description="Milliseconds that a lookup in the entity store may take; a later one is given "
        "up, and the list is ranked without it.",
    )
    state_connections: int = Field(
        16,
        ge=1,
        le=1024,
        description="Connections of each worker to Redis. Raise it if lookups time out while the "
        "server is idle.",
    )
    state_max_gb: float = Field(
        64.0,
        gt=0,
        le=65536,
        description="Gibibytes that the file of an LMDB store may grow to. All processes of the "
        "store need the same.",
    )
    state_counters: bool = Field(
        True,
        description="Take the values of `statistic` features from the counters of items in the "
        "entity store. Set it to false to compare with a model's offline figures.",
    )
    state_keys_file: Path | None = Field(
        None,
        description="File of keys of the routes that read and write users and items, a line "
        "NAME:KEY each. Without it they answer on a loopback address only.",
    )
    state_event_window_s: float = Field(
        86_400.0,
        ge=60,
        le=366 * 86_400,
        description="Seconds for which ids of events are kept, so that a repeated event counts "
        "once. Raise it if callers send again later; they take room in the store for as long.",
    )
    playground: bool = Field(
        False,
        description="Serve the page /playground, which shows how the model ranks. Enable it where "
        "people look at the service.",
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="Log format. Use console to read logs in a terminal."
    )
    log_requests: bool = Field(
        False, description="Log a line per ranking call, without bodies and user ids."
    )
    tracing: Literal["off", "otlp"] = Field(
        "off",
        description="Export spans. otlp needs the dependency group `tracing` and reads the "
        "OTEL_EXPORTER_OTLP_* variables.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged. Use debug to investigate."
    )

    @field_validator(
        "provider", "backend", "on_failure", "log_format", "tracing", "log_level", mode="before"
    )
    @classmethod
    def _fold_case(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _preload_for_the_page(self) -> Self:
        if self.playground and self.max_traces and "preload_steps" not in self.model_fields_set:
            self.preload_steps = True
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then the environment."""
        return init_settings, Environment(settings_cls)


class Settings(JournalSettings, ServiceSettings):
    """Read from RERANK_* variables; arguments, such as the command line's, take precedence.

    An empty value means the default. A service link of Kubernetes is no value.
    """


def with_profile(settings: Settings) -> Settings:
    """Return the settings, with values of their profile where none is set explicitly.

    Raises OSError or ValueError naming a profile that cannot be read.
    """
    if settings.profile is None:
        return settings
    try:
        payload = json.loads(settings.profile.read_bytes())
        profile = {name: payload[name] for name in ("threads", "spinning", "max_batch_size")}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{settings.profile}: not a profile written by `python -m export tune` ({error!r})"
        ) from error
    explicit = {name: getattr(settings, name) for name in settings.model_fields_set}
    return Settings(**{**profile, **explicit})


def drop_foreign_variables() -> None:
    """Remove FOREIGN_VARIABLES from the environment. Call it before service.server is imported."""
    for name in FOREIGN_VARIABLES:
        os.environ.pop(name, None)


def ignored_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a message for each RERANK_* variable that sets nothing, and one for service links."""
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    links, messages = [], []
    for name in sorted(environment):
        if not name.upper().startswith(PREFIX):
            continue
        is_setting = name.upper() in settings
        if LINK_VALUE.match(environment[name]) or (LINK_NAME.fullmatch(name) and not is_setting):
            links.append(name)
        elif not is_setting:
            messages.append(f"{name}: not a setting, ignored")
    if links:
        messages.append(
            f"{', '.join(links)}: service links of Kubernetes, ignored; "
            "enableServiceLinks: false in the pod's spec removes them"
        )
    return messages


def describe(settings: Settings) -> str:
    """Return one line per setting: variable, value, description."""
    lines = []
    for name, field in Settings.model_fields.items():
        lines.append(f"RERANK_{name.upper()}={getattr(settings, name)}  # {field.description}")
    return "\n".join(lines)
