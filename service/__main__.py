"""Serve a bundle, or a store of bundles, over HTTP."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from pydantic import ValidationError

from service.engine.contract import BundleError
from service.http.security import KeysError
from service.log_handler import flush
from service.settings import (
    SECRETS,
    Settings,
    describe,
    drop_foreign_variables,
    ignored_variables,
    with_profile,
)
from service.signals import exit_if_stopped, handle
from service.telemetry import TelemetryError, configure


def operate(part: str, arguments: list[str]) -> int:
    """Run a command of the entity store or the journal; no server needs its imports."""
    if part == "state":
        from service.state.commands import main as run
    else:
        from service.journal.commands import main as run
    return run(arguments)


def main() -> int:
    """Serve until stopped. Return 2, after one line on standard error, if that is impossible.

    `state` as the first argument operates the entity store instead, and `journal` the journal.
    """
    if sys.argv[1:2] in (["state"], ["journal"]):
        return operate(sys.argv[1], sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description=__doc__,
        epilog="`python -m service state --help` operates the entity store, and "
        "`python -m service journal --help` the journal",
    )
    parser.add_argument("--bundle", help="bundle directory (RERANK_BUNDLE)")
    parser.add_argument("--models", help="store of bundles (RERANK_MODELS)")
    parser.add_argument("--host", help="address to listen on (RERANK_HOST)")
    parser.add_argument("--port", help="port to listen on (RERANK_PORT)")
    parser.add_argument("--workers", help="processes (RERANK_WORKERS)")
    parser.add_argument(
        "--print-settings",
        action="store_true",
        help="print every setting with its value and description, then exit",
    )
    arguments = vars(parser.parse_args())
    print_only = arguments.pop("print_settings")
    # An empty argument, as of --host "$HOST" without a HOST, counts as absent.
    overrides = {name: value for name, value in arguments.items() if value and value.strip()}
    try:
        settings = with_profile(Settings(**overrides))
    except (OSError, ValueError) as error:
        if not isinstance(error, ValidationError):
            print(f"service: RERANK_PROFILE: {error}", file=sys.stderr)
            return 2
        for entry in error.errors(include_url=False):
            name = f"RERANK_{'_'.join(map(str, entry['loc'])).upper()}"
            value = "" if name in SECRETS else f", got {entry['input']!r}"
            print(f"service: {name}: {entry['msg']}{value}", file=sys.stderr)
        return 2
    if print_only:
        print(describe(settings))
        return 0
    handle(exit_if_stopped)
    configure(settings)
    for message in ignored_variables(os.environ):
        logging.getLogger("service").warning("%s", message)
    drop_foreign_variables()
    from service.server import serve  # only now: it imports much

    try:
        serve(settings)
    except (BundleError, KeysError, TelemetryError, OSError) as error:
        flush()  # the log may give the reason, and this line comes last
        print(f"service: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
