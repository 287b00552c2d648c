"""The request and the slate of the page /playground in a tab."""

import json


def request_of(page):
    """Return the request that the page shows as JSON."""
    return json.loads(page.locator("#json").input_value())


def type_request(page, request):
    """Replace the request of the page, which ranks it after a pause."""
    page.locator("#json").fill(json.dumps(request))


def slate_of(page):
    """Return the ids of the slate as text, in order."""
    return page.locator("#ranked > li").evaluate_all("items => items.map((i) => i.dataset.id)")
