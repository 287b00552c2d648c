"""The request and the slate of the page /playground in a tab, and Node for its modules."""

import json
import shutil

NODE = shutil.which("node") or ""


def request_of(page):
    """Return the request that the page shows as JSON."""
    return json.loads(page.locator("#json").input_value())


def type_request(page, request):
    """Replace the request of the page, which ranks it after a pause."""
    page.locator("#json").fill(json.dumps(request))


def slate_of(page):
    """Return the ids of the slate as text, in order."""
    return page.locator("#ranked > li").evaluate_all("items => items.map((i) => i.dataset.id)")


def choose(page, sample):
    """Choose a sample by its name."""
    page.locator("#sample").select_option(label=sample)
