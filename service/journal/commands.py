"""Operate a journal in files: `python -m service journal COMMAND --help`."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import ormsgpack
import tyro
from tyro.conf import Positional, subcommand

from service.engine.contract import BundleError
from service.journal.address import FilesAddress, parse_journal_address
from service.journal.erasure import SETTLE_S, erase
from service.journal.errors import JournalAddressError, JournalError
from service.journal.frames import Frame
from service.journal.records import DecisionRecord, record_of
from service.journal.segments import Segment, segments_in
from service.journal.summary import summarise

VARIABLE = "RERANK_JOURNAL"
FOLLOW_S = 0.5  # between two looks at a journal that is followed
MAX_REPORTED = 20  # problems that are printed
Fields = Mapping[str, Any]  # of a record


@dataclass(frozen=True)
class Tail:
    """Print the last records, one JSON object per line."""

    journal: Positional[str | None] = None
    """Directory or files:// address of the journal. By default that of RERANK_JOURNAL."""
    last: int = 10
    """Number of records. 0 prints all."""
    kind: Literal["decision", "event", "erasure"] | None = None
    """Print records of this kind alone."""
    user: str | None = None
    """Print records of this user alone."""
    request_id: str | None = None
    """Print records of this request alone."""
    follow: bool = False
    """Go on with records that are written from now on, until Ctrl-C."""

    def execute(self) -> int:
        """Print records. Raises OSError."""
        directory = directory_of(self.journal)
        places: dict[str, int] = {}
        for record in last_records(directory, places, self._matches, self.last):
            print_record(record)
        while self.follow:
            time.sleep(FOLLOW_S)
            for segment in segments_in(directory):
                for record in filter(self._matches, unread(segment, places)):
                    print_record(record)
        return 0

    def _matches(self, record: Fields) -> bool:
        stated = {"kind": self.kind, "user": self.user, "request_id": self.request_id}
        return all(record.get(name) == value for name, value in stated.items() if value is not None)


@dataclass(frozen=True)
class Verify:
    """Read every record. Exit with status 1 for damage other than torn tails."""

    journal: Positional[str | None] = None
    """Directory or files:// address of the journal. By default that of RERANK_JOURNAL."""

    def execute(self) -> int:
        """Read all segments. Raises OSError."""
        summary = summarise(segments_in(directory_of(self.journal)))
        for problem in summary.problems[:MAX_REPORTED]:
            print(f"journal: {problem}", file=sys.stderr)
        count = sum(summary.records.values())
        print(
            f"{count} records in {summary.segments} segments, {summary.torn} torn tails of "
            f"{summary.torn_bytes} bytes, {len(summary.problems)} problems"
        )
        return 1 if summary.problems else 0


@dataclass(frozen=True)
class Stats:
    """Print counts of records by model, variant, policy and type as JSON."""

    journal: Positional[str | None] = None
    """Directory or files:// address of the journal. By default that of RERANK_JOURNAL."""

    def execute(self) -> int:
        """Print the counts. Raises OSError."""
        summary = summarise(segments_in(directory_of(self.journal)))
        print(orjson.dumps(summary.to_json(), option=orjson.OPT_INDENT_2).decode())
        return 0


@dataclass(frozen=True)
class Erase:
    """Remove users' records, and those of users whose deletion the journal recorded.

    Running services close their files for it and go on in new ones.
    """

    journal: Positional[str | None] = None
    """Directory or files:// address of the journal. By default that of RERANK_JOURNAL."""
    user: tuple[str, ...] = ()
    """Ids of users to erase at all times. By default only recorded deletions are applied."""
    wait_s: float = 30.0
    """Seconds to wait for running services to close their files."""
    settle_s: float = SETTLE_S
    """Seconds after which every worker has flushed what it held when a user was deleted. Younger
    deletions are applied, and once more by the next erasure. State a week, 604800, where a log is
    joined or a model retrained: both learn of a deletion by its record."""

    def execute(self) -> int:
        """Erase users. Raises JournalError or OSError."""
        erased = erase(directory_of(self.journal), self.user, self.wait_s, self.settle_s)
        print(
            f"erased {erased.records} records of {erased.users} users in {erased.segments} segments"
        )
        if erased.still_open:
            print(
                f"journal: {erased.still_open} files were not closed in {self.wait_s:g} s and may "
                "hold more; run the command again",
                file=sys.stderr,
            )
            return 1
        return 0


@dataclass(frozen=True)
class Cost:
    """Estimate the utility that exploration costs, by the evaluator of a bundle.

    Explored lists of this bundle are ranked again, greedily.
    """

    bundle: Path
    """Bundle that made the decisions."""
    journal: Positional[str | None] = None
    """Directory or files:// address of the journal. By default that of RERANK_JOURNAL."""
    last: int = 2000
    """Number of the last explored lists to compare. 0 compares all."""

    def execute(self) -> int:
        """Print the estimate. Raises BundleError or OSError."""
        from service.engine.session import Session  # only here: it loads the runtime of graphs
        from service.journal.cost import estimate_cost

        directory = directory_of(self.journal)
        fields = last_records(directory, {}, is_explored, self.last)
        records = [each for each in map(record_of, fields) if isinstance(each, DecisionRecord)]
        cost = estimate_cost(records, Session.load(self.bundle))
        print(cost or "no explored lists of this bundle")
        return 0


def is_explored(record: Fields) -> bool:
    """Tell if a record is a decision that the service sampled to explore."""
    return record.get("kind") == "decision" and record["policy"]["kind"] == "explore"


Command = (
    Annotated[Tail, subcommand("tail")]
    | Annotated[Verify, subcommand("verify")]
    | Annotated[Stats, subcommand("stats")]
    | Annotated[Erase, subcommand("erase")]
    | Annotated[Cost, subcommand("cost")]
)


def directory_of(text: str | None) -> Path:
    """Return the directory of an option or of the environment. Raises JournalAddressError."""
    text = os.environ.get(VARIABLE, "off") if text is None else text
    if text.strip().lower() in ("", "off"):
        raise JournalAddressError(f"no journal: set {VARIABLE}, or name its directory")
    if "://" not in text:
        return Path(text)
    address = parse_journal_address(text)
    if not isinstance(address, FilesAddress):
        raise JournalAddressError(
            f"{address}: these commands read files; use the tools of the server"
        )
    return address.directory


def last_records(
    directory: Path, places: dict[str, int], matches: Callable[[Fields], bool], count: int
) -> Iterator[Fields]:
    """Yield the last records that match, or all of them if `count` is 0.

    The newest segments are read alone. places: as of `unread`; is set to the end of the journal.
    """
    segments = segments_in(directory)
    if count < 1:
        for segment in segments:
            yield from filter(matches, unread(segment, places))
        return
    newest: list[deque[Fields]] = []
    for segment in reversed(segments):
        if sum(map(len, newest)) < count:
            newest.append(deque(filter(matches, unread(segment, places)), count))
        else:
            places[segment.name] = segment.path.stat().st_size
    chosen = [record for records in reversed(newest) for record in records]
    yield from chosen[-count:]


def unread(segment: Segment, places: dict[str, int]) -> Iterator[Fields]:
    """Yield the records of a segment behind its place, and advance it.

    places: bytes read of each segment, by its name.
    """
    try:
        for part in segment.read(places.get(segment.name, 0)):
            if isinstance(part, Frame):
                yield from part.records
            elif part.torn:  # or being written
                break
            places[segment.name] = part.end
    except FileNotFoundError:  # closed meanwhile; the next look has it under its new name
        return


def print_record(record: Fields) -> None:
    """Print a record as one line of JSON."""
    print(orjson.dumps(record, default=printable).decode(), flush=True)


def printable(value: object) -> object:
    """Return the item of stored bytes, and other bytes in hexadecimal. Raises TypeError."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} cannot be encoded")
    try:
        decoded = ormsgpack.unpackb(value)
    except ormsgpack.MsgpackDecodeError:
        return value.hex()
    return decoded if isinstance(decoded, dict) else value.hex()


def main(arguments: Sequence[str]) -> int:
    """Run one command; exit status 2 and the reason for bad input, and 130 after Ctrl-C."""
    try:
        command: Command = tyro.cli(
            Command,
            prog="python -m service journal",
            description=__doc__,
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
        )
        return command.execute()
    except (JournalError, BundleError, OSError) as error:
        print(f"journal: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
