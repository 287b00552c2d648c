"""Run the comparison of servers and write its report (`python -m loadtest peers`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import tyro

from loadtest.errors import MISSED, PASSED, UNUSABLE, VOID, LoadTestError, UsageError
from loadtest.validation import refuse_repeats
from peers import PEERS
from peers.comparison import Comparison
from peers.environments import install
from peers.options import LadderOptions
from peers.progress import Progress
from peers.report import page, write_html, write_page
from peers.summary import SERVICE


def main(arguments: Sequence[str]) -> int:
    """Measure and write the report; return the exit status."""
    options = tyro.cli(
        LadderOptions,
        prog="python -m loadtest peers",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        refuse_repeats(arguments)
    except UsageError as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return UNUSABLE
    modules = list(dict.fromkeys(peer.module for peer in PEERS))
    unknown = [module for module in options.only if module not in modules]
    if unknown or not options.only:
        reason = f"{unknown[0]!r} is no peer" if unknown else "names no peer"
        print(f"loadtest: --only: {reason}; choose from {', '.join(modules)}", file=sys.stderr)
        return UNUSABLE
    try:
        if options.html is not None:
            write_html(options.directory, options.html)
            return PASSED
        return write_page_again(options) if options.page_only else compare(options)
    except (OSError, KeyError, ValueError, LoadTestError, subprocess.CalledProcessError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return UNUSABLE


def write_page_again(options: LadderOptions) -> int:
    """Write page and plot from figures that were measured before."""
    write_page(options.directory)
    return PASSED


def compare(options: LadderOptions) -> int:
    """Run the comparison, write and print the report."""
    peers = [peer for peer in PEERS if peer.module in options.only]
    for peer in peers if options.install else ():
        install(peer)
    progress = Progress(options, [SERVICE, *(peer.name for peer in peers)])
    report = Comparison(peers, options, progress).run()
    directory = options.directory
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "peers.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    write_page(directory)
    progress.end()
    print(page(report))
    if any(row["same_answers"] is False for row in report["rows"]):
        return MISSED
    return VOID if any(row["void"] for row in report["rows"]) else PASSED
