"""Calls that a page of another origin makes a browser send."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from service.errors import Forbidden

OF_THIS_ORIGIN = ("same-origin", "none")  # none: typed by the user


def refuse_cross_site(headers: Mapping[str, str]) -> None:
    """Refuse a call that a browser sends for a page of another origin. Raises Forbidden.

    Without keys, such a call needs no permission of this service: its body may be text, for which
    a browser does not ask. Browsers say who sent it in headers that no page can write; other
    clients send neither. `Sec-Fetch-Site` takes precedence, because a proxy may change `Host`.

    Args:
        headers: by lower-case name.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        if site not in OF_THIS_ORIGIN:
            raise Forbidden(
                f"header Sec-Fetch-Site: must be same-origin without API keys, is {site[:50]}"
            )
    elif origin is not None and host_of(origin) != headers.get("host", "").lower():
        raise Forbidden(
            f"header Origin: must name this service without API keys, is {origin[:200]}"
        )


def host_of(origin: str) -> str | None:
    """Return host and port of an origin, None without one, as for `null`."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
