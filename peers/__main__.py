"""Compare servers around the same bundle: python -m peers --help."""

import signal
import sys

from loadtest.errors import Interrupted, status_of
from peers.ladder import main


def interrupt(number: int, _: object) -> None:
    """Raise as Ctrl-C does, so that servers and generators are stopped on the way out."""
    raise Interrupted(number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, interrupt)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt as error:
        print("loadtest: interrupted", file=sys.stderr)
        sys.exit(status_of(error))
