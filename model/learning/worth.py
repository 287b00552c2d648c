"""Say in sentences what `evaluate` measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from model.data.intervals import FEWEST, TOO_FEW, excludes_zero, format_interval

Ends = Sequence[float | None]  # mean, low, high; null for no interval


def sentences(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield the worth of a bundle, one sentence each, from the result of `evaluate`."""
    split = metrics["split"]
    headlines = [n for n in metrics if n.endswith("ndcg@10") and metrics[n][0] is not None]
    lists = max(_lists(metrics, name) for name in headlines)
    sent = join(metrics["sent"])
    if metrics["caller"] == "no item features":
        sent += ", but no item features,"
    for name in headlines:
        yield (
            f"A caller that sends {sent} gets {_title(name)} {format_interval(metrics[name])} "
            f"over {_lists(metrics, name):,} {split} lists{_gains(metrics[f'{name} gain over'])}."
        )
    if lists < FEWEST:
        yield f"Fewer than {FEWEST} lists are {TOO_FEW}: collect more before you trust a figure."
    fresh = metrics.get("fresh")
    if fresh:
        yield from _fresh_sentences(metrics, fresh, headlines)


def _fresh_sentences(
    metrics: Mapping[str, Any], fresh: Mapping[str, Any], headlines: Sequence[str]
) -> Iterator[str]:
    """Yield the worth for a caller with fresh item features, and the features that matter."""
    features = ", ".join(f"`{name}`" for name in fresh["features"])
    for name in headlines:
        against = dict(fresh[f"{name} gain over"])
        paired = against.pop("no item features")
        apart = "" if excludes_zero(paired) else ", which is no more than noise"
        yield (
            f"A caller that also sends the values of {features} of the moment gets "
            f"{_title(name)} {format_interval(fresh[name])}{_gains(against)}; "
            "the difference from the caller without item features is "
            f"{format_interval(paired, signed=True)}{apart}."
        )
    for entry in metrics.get("keep_fresh", ()):
        (gain,) = (value for name, value in entry.items() if name.endswith(" gain"))
        useful = excludes_zero(gain) and gain[0] > 0
        advice = "Send `{}` or keep it fresh" if useful else "`{}` alone is of no use"
        yield (
            f"{advice.format(entry['feature'])}: it differs from the item table in "
            f"{100 * entry['rows']:.0f} % of rows, and alone it changes NDCG@10 by "
            f"{format_interval(gain, signed=True)} over {entry['lists']:,} lists."
        )


def _lists(metrics: Mapping[str, Any], name: str) -> int:
    """Return the number of lists that have a metric; binary metrics need a positive."""
    return int(metrics["graded lists" if name.startswith("graded") else "lists"])


def join(names: Sequence[str]) -> str:
    """Return "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _title(metric: str) -> str:
    return metric.replace("ndcg", "NDCG")


def _gains(baselines: Mapping[str, Ends]) -> str:
    """Return ", +0.1 [..] over shown order" and so on, or nothing."""
    return "".join(
        f", {format_interval(gain, signed=True)} over {name}" for name, gain in baselines.items()
    )
