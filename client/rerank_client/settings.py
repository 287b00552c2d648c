"""Checks of the settings of a client: URLs, timeouts, headers and the API key."""

from __future__ import annotations

import math
import numbers

import httpx

from rerank_client.checks import as_list, wrong_type


def normalize_base_urls(urls: object) -> list[str]:
    """Return the URLs without the slash at their end.

    Raises TypeError unless they are strings. Raises ValueError for a URL that cannot be used,
    without showing a password in it.
    """
    instances = [urls] if isinstance(urls, str) else as_list("urls", urls, "strings")
    if not instances:
        raise ValueError("urls: at least one URL is needed, got none")
    return [_base_url(url) for url in instances]


def _base_url(url: object) -> str:
    if not isinstance(url, str):
        raise TypeError(f"urls: must be strings, got {type(url).__name__}")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"urls: {error}") from None
    if parsed.userinfo:
        raise ValueError("urls: must not hold user and password; pass api_key instead")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ValueError(f"urls: must be like http://host:port, got {url!r}")
    return url.rstrip("/")


def check_timeout_ms(timeout_ms: float) -> float:
    """Return the timeout in milliseconds.

    Raises TypeError unless it is a number, ValueError unless it is positive and finite.
    """
    if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, numbers.Real):
        raise wrong_type("timeout_ms", "a number", timeout_ms)
    if not 0 < timeout_ms < math.inf:
        raise ValueError(f"timeout_ms: must be positive and finite, got {timeout_ms!r}")
    return timeout_ms


def check_header(name: str, value: str) -> str:
    """Return the value.

    Raises TypeError unless it is a string, ValueError if the service would not accept it as a
    header.
    """
    if not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    printable = value.isascii() and value.isprintable() and value == value.strip()
    if not (printable and 0 < len(value) <= 128):
        raise ValueError(
            f"{name}: must be 1 to 128 printable ASCII characters without a space at either end, "
            f"got {value!r}"
        )
    return value


def check_api_key(api_key: str, name: str = "api_key") -> str:
    """Return the key. Raises TypeError or ValueError that does not show it.

    The check comes first because httpx's error for an illegal header would show the key.
    """
    if not isinstance(api_key, str):
        raise TypeError(f"{name}: must be a string, got {type(api_key).__name__}")
    if not (api_key.isascii() and api_key.isprintable() and api_key.split() == [api_key]):
        raise ValueError(f"{name}: must be printable ASCII without spaces")
    return api_key
