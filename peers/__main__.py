"""Run the ladder of peers: python -m peers --help."""

import sys

from peers.ladder import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
