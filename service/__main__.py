"""python -m service --bundle DIR"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

import uvicorn
from pydantic import ValidationError

from service import wire
from service.app import create_app
from service.contract import BundleError
from service.reranker import path_of
from service.session import Session
from service.settings import Settings, describe, tuned, unknown_variables


def main() -> int:
    """Serve until stopped; exit status 2, in one line, for a bad setting, bundle or port."""
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    parser.add_argument("--bundle", type=Path, help="bundle directory (RERANK_BUNDLE)")
    parser.add_argument("--host", help="address to listen on (RERANK_HOST)")
    parser.add_argument("--port", type=int, help="port to listen on (RERANK_PORT)")
    parser.add_argument(
        "--print-settings", action="store_true", help="every setting with its value, then exit"
    )
    arguments = vars(parser.parse_args())
    only_print = arguments.pop("print_settings")
    try:
        settings = tuned(Settings(**{k: v for k, v in arguments.items() if v is not None}))
    except (OSError, ValueError) as error:
        if not isinstance(error, ValidationError):
            print(f"service: RERANK_PROFILE: {error}", file=sys.stderr)
            return 2
        for entry in error.errors(include_url=False):
            name = f"RERANK_{path_of(entry['loc']).upper()}"
            print(f"service: {name}: {entry['msg']}, got {entry['input']!r}", file=sys.stderr)
        return 2
    if only_print:
        print(describe(settings))
        return 0
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    for name in unknown_variables(os.environ):
        # Not refused: an orchestrator may set RERANK_SERVICE_HOST and the like on its own.
        logging.getLogger("service").warning("%s: not a setting, ignored", name)
    try:
        session = Session.load(
            settings.bundle, settings.threads, settings.provider, settings.spinning
        )
        listener = bind(settings.host, settings.port)
    except (BundleError, OSError) as error:
        print(f"service: {error}", file=sys.stderr)
        return 2
    host, port = listener.getsockname()[:2]
    manifest = session.manifest
    logging.getLogger("service").info(
        "serving %s/%s on http://%s:%d", manifest.name, manifest.version, host, port
    )
    config = wire.config(create_app(settings, session), settings.log_level)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def bind(host: str, port: int) -> socket.socket:
    """A listening address, before the model is warmed. Raises OSError naming it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"{host}:{port}: cannot listen there ({error.strerror})") from None
    return listener


if __name__ == "__main__":
    sys.exit(main())
