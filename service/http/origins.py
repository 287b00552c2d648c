"""Calls that a page of another origin makes a browser send."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from service.errors import Forbidden

OF_THIS_ORIGIN = ("same-origin", "none")  # none: typed by the user


def refuse_cross_site(headers: Mapping[str, str], address: str) -> None:
    """Refuse a call that a browser sends for a page of another origin. Raises Forbidden.

    Without keys, such a call needs no permission of this service: its body may be text, for which
    a browser does not ask. Browsers say who sent it in headers that no page can write; other
    clients send neither. `Sec-Fetch-Site` takes precedence, because a proxy may change `Host`.

    A page can make a name of its own lead to a loopback address (DNS rebinding). Its origin is
    then the one that it calls, so that only the name in `Host` tells it from a page of the service.

    Args:
        headers: by lower-case name.
        address: that the service listens on.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None and origin is None:
        return
    if site is not None:
        if site not in OF_THIS_ORIGIN:
            raise Forbidden(
                f"header Sec-Fetch-Site: must be same-origin without API keys, is {site[:50]}"
            )
    elif origin is not None and host_of(origin) != headers.get("host", "").lower():
        raise Forbidden(
            f"header Origin: must name this service without API keys, is {origin[:200]}"
        )
    if is_loopback(address) and not is_loopback(named_host(headers)):
        raise Forbidden(
            "header Host: must be localhost or a loopback address in a browser without API keys, "
            f"is {headers.get('host', '')[:200]}"
        )


def host_of(origin: str) -> str | None:
    """Return host and port of an origin, None without one, as for `null`."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def named_host(headers: Mapping[str, str]) -> str:
    """Return the host that a request names, without its port.

    A page in a browser can make a name of its own lead here, and a proxy may pass on other names.
    """
    host = headers.get("host", "")
    if not host.startswith("["):
        return host.partition(":")[0]
    address, _, port = host[1:].partition("]")
    return address if port[:1] in ("", ":") else host


def is_loopback(host: str) -> bool:
    """Tell if only processes of this host can reach the address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
