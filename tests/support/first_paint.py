"""Time the first paint of the page /playground: `python -m tests.support.first_paint`.

It needs Chromium (.ci/setup) and the environment of `make setup`.
"""

import statistics

from service.engine.session import Session
from tests.support.browsers import chromium
from tests.support.bundles import BUNDLE
from tests.support.servers import fresh

TABS = 20
PAINT = """() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime"""


def main():
    """Serve the committed bundle and open the page in new contexts, whose caches are empty."""
    painted, ranked = [], []
    with fresh(Session.load(BUNDLE), playground=True) as url, chromium() as browser:
        for _ in range(TABS):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            page.goto(f"{url}/playground")
            page.locator("#ranked > li").first.wait_for()
            ranked.append(page.evaluate("performance.now()"))
            painted.append(page.wait_for_function(PAINT).json_value())
            context.close()
    for name, values in (("first contentful paint", painted), ("slate on the page", ranked)):
        print(
            f"{name}: median {statistics.median(values):.0f} ms, "
            f"maximum {max(values):.0f} ms of {TABS} tabs"
        )


if __name__ == "__main__":
    main()
