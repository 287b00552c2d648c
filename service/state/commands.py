"""Operate an entity store: `python -m service state COMMAND --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, subcommand

from service.state.address import FORMS, parse_address
from service.state.engine import Engine, Key, Kind
from service.state.errors import AddressError, EntityError, StateError
from service.state.files import STANDARD, Format, describe_value, format_of
from service.state.loading import LoadOptions, dump, load
from service.state.opening import open_engine
from service.state.schema_check import SchemaCheck

VARIABLE = "RERANK_STATE"
MAX_REPORTED = 20  # bad records that are printed
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Load:
    """Merge entities of a file into the store, one per line or MessagePack value (docs/state.md).

    A load that was interrupted resumes where it stopped; loading a file twice is harmless.
    """

    file: Positional[Path]
    """File of entities, .ndjson or .msgpack, also with .gz; - for standard input."""
    state: str | None = None
    """Address of the store. By default that of RERANK_STATE."""
    format: Format | None = None
    """Format of the file. By default that of its suffix."""
    bundle: Path | None = None
    """Bundle whose schema the features must fulfil. By default they are only checked when read."""
    history: int = 128
    """Most answers that a user keeps."""
    skip_bad_lines: bool = False
    """Report bad lines on standard error and go on. By default the first one ends the load."""
    restart: bool = False
    """Begin with the first line. By default an interrupted load of the same file goes on."""
    max_gb: float = 64.0
    """Largest size of an LMDB file, GiB, as in RERANK_STATE_MAX_GB."""

    def execute(self) -> int:
        """Load the file. Raises EntityError, EngineError or OSError."""
        if self.history < 1:
            raise EntityError("--history", "at least 1", self.history)
        form = format_of(self.file, self.format)
        check = None if self.bundle is None else SchemaCheck.of(self.bundle)
        reported: list[str] = []

        def report(message: str) -> None:
            reported.append(message)
            if len(reported) <= MAX_REPORTED:
                print(message, file=sys.stderr)

        options = LoadOptions(
            self.history, form, check, report if self.skip_bad_lines else None, not self.restart
        )
        with closing(opened(self.state, self.max_gb)) as engine:
            loaded = load(engine, self.file, options)
        resumed = f", {loaded.resumed} lines done before" if loaded.resumed else ""
        print(f"loaded {loaded.entities} entities, {loaded.bad} bad lines{resumed}")
        return 0


@dataclass(frozen=True)
class Dump:
    """Write all entities to a file that `load` reads, also into the other engine."""

    file: Positional[Path] = STANDARD
    """File to write, .ndjson or .msgpack, also with .gz; - for standard output."""
    state: str | None = None
    """Address of the store. By default that of RERANK_STATE."""
    format: Format | None = None
    """Format of the file. By default that of its suffix."""
    kind: Literal["user", "item"] | None = None
    """Dump entities of this kind alone."""

    def execute(self) -> int:
        """Dump the store. Raises EntityError, EngineError or OSError."""
        kinds: Sequence[Kind] = ("user", "item") if self.kind is None else (self.kind,)
        form = format_of(self.file, self.format)
        with closing(opened(self.state)) as engine:
            dumped = dump(engine, self.file, form, kinds)
        unreadable = f", {dumped.unreadable} unreadable ones left out" if dumped.unreadable else ""
        print(f"dumped {dumped.entities} entities{unreadable}", file=sys.stderr)
        return 0


@dataclass(frozen=True)
class Stats:
    """Print the condition of the store as JSON."""

    state: str | None = None
    """Address of the store. By default that of RERANK_STATE."""

    def execute(self) -> int:
        """Print the condition. Raises EngineError."""
        with closing(opened(self.state)) as engine:
            health = engine.health()
        print(
            describe_value(
                {
                    "engine": engine.name, "entities": health.entities, "bytes": health.bytes,
                    "limit_bytes": health.limit,
                    "durable": health.durable, "lag_s": health.lag_s, "notes": list(health.notes),
                }
            )
        )  # fmt: skip
        return 0


@dataclass(frozen=True)
class Delete:
    """Delete users and items at once. `compact` removes what is left of them in the files."""

    state: str | None = None
    """Address of the store. By default that of RERANK_STATE."""
    user: tuple[str, ...] = ()
    """Ids of users."""
    item: tuple[str, ...] = ()
    """Ids of items."""

    def execute(self) -> int:
        """Delete the entities. Raises EntityError or EngineError."""
        keys = [Key("user", item) for item in self.user] + [Key("item", item) for item in self.item]
        if not keys:
            raise EntityError("--user, --item", "at least one id", None)
        with closing(opened(self.state)) as engine:
            deleted = engine.delete(keys)
        print(f"deleted {deleted} of {len(keys)} entities")
        return 0


@dataclass(frozen=True)
class Compact:
    """Rewrite the files so that nothing is left of deleted and expired entities.

    LMDB: no other process may use the store meanwhile. Redis: the server rewrites its file in the
    background.
    """

    state: str | None = None
    """Address of the store. By default that of RERANK_STATE."""
    max_gb: float = 64.0
    """Largest size of an LMDB file, GiB, as in RERANK_STATE_MAX_GB."""

    def execute(self) -> int:
        """Compact the store. Raises EngineError."""
        with closing(opened(self.state, self.max_gb)) as engine:
            before = engine.health().bytes
            engine.compact()
            if engine.name == "redis":
                print("the server rewrites its append-only file in the background")
            else:
                print(f"compacted from {before} to {engine.health().bytes} bytes")
        return 0


Command = (
    Annotated[Load, subcommand("load")]
    | Annotated[Dump, subcommand("dump")]
    | Annotated[Stats, subcommand("stats")]
    | Annotated[Delete, subcommand("delete")]
    | Annotated[Compact, subcommand("compact")]
)


def opened(text: str | None, max_gb: float = 64.0) -> Engine:
    """Return the engine of an option, or of the environment. Raises AddressError, EngineError."""
    text = os.environ.get(VARIABLE, "off") if text is None else text
    if text.strip().lower() in ("", "off"):
        raise AddressError(f"no store: set {VARIABLE} or --state to {FORMS}")
    return open_engine(parse_address(text), max_gb, TIMEOUT_S)


def main(arguments: Sequence[str]) -> int:
    """Run one command; exit status 2 and the reason for bad input, and 130 after Ctrl-C."""
    try:
        command: Command = tyro.cli(
            Command,
            prog="python -m service state",
            description=__doc__,
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
        )
        return command.execute()
    except (StateError, OSError) as error:
        print(f"state: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
