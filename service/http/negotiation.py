"""The weights of an Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

QVALUE = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


def weights(accept: str) -> dict[str, float]:
    """Return the media ranges of an Accept header with their weights, 0 to 1.

    Names are in lower case. Of a repeated range the largest weight counts, and a weight that is
    not valid counts as 1.
    """
    ranges: dict[str, float] = {}
    for entry in accept.lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q=") and QVALUE.fullmatch(parameter[2:]):
                weight = float(parameter[2:])
        ranges[name] = max(weight, ranges.get(name, 0.0))
    return ranges


def weight_of(names: Sequence[str], ranges: dict[str, float]) -> float:
    """Return the weight of a format, by the most specific range, else 0.

    The response carries the first name, so a range of that name decides alone. The other names are
    aliases, of which the largest weight counts.
    """
    if names[0] in ranges:
        return ranges[names[0]]
    aliases = [ranges[name] for name in names if name in ranges]
    if aliases:
        return max(aliases)
    return ranges.get("application/*", ranges.get("*/*", 0.0))
