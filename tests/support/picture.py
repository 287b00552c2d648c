"""Take the picture of the page /playground: `python -m tests.support.picture docs/playground.png`.

It needs Chromium (.ci/setup) and the environment of `make setup`.
"""

import sys
import tempfile
from pathlib import Path

from service.engine.session import Session
from tests.support.browsers import chromium
from tests.support.bundles import BUNDLE
from tests.support.servers import fresh

VIEW = {"width": 1280, "height": 800}


def main(out):
    """Serve the committed bundle, rank the first sample, and write what a browser shows."""
    with (
        tempfile.TemporaryDirectory() as state,
        fresh(Session.load(BUNDLE), playground=True, state=f"lmdb://{state}") as url,
        chromium() as browser,
    ):
        page = browser.new_page(viewport=VIEW, color_scheme="light", reduced_motion="reduce")
        page.goto(f"{url}/playground")
        page.locator("#ranked > li").first.wait_for()
        page.locator("#positions", has_text="Took 3 of 3 steps;").wait_for()  # and nothing moves
        page.screenshot(path=out)
    print(f"{out}: {Path(out).stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
