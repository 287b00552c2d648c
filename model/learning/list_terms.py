"""Terms of a list objective: a value of slates that grows by a gain with each item.

Every term describes B lists of N candidates and G prefixes of slates for each of them. Its state is
one tensor [B, G, ...]. A slate's value is the sum of the gains of its items, each after those
before it, so one law serves as a reward of whole slates and as a guide of a search.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from model.learning.policy import Batch
from model.network.config import ConfigError
from model.network.evaluator import discount
from model.network.objectives_config import TermConfig
from service.engine.features.featuriser import Featuriser

VALUE_KINDS = ("identifier", "category", "categories")


class ListTerm(Protocol):
    """One term on B lists."""

    def start(self, group: int) -> Tensor:
        """Return the state [B, G, ...] of empty slates."""

    def gains(self, state: Tensor, position: int) -> Tensor:
        """Return the gain of each candidate at a position, float [B, G, N]."""

    def add(self, state: Tensor, item: Tensor) -> Tensor:
        """Return the state with item int64 [B, G]; -1 adds nothing."""


class ExpectedValues:
    """Expected likes of values, in which a like of a value lowers later gains by it.

    The gain of item i at position k is weight_k p_i sum_v u_iv prod_j (1 - alpha p_j u_jv) over the
    items j before it, for likes that are independent.

    Args:
        probability: of a like, float [B, N].
        values: u, 0 or 1, float [B, N, V].
        alpha: share of a value's gain that a like takes; 1 counts each value once.
        weight: float [B, K].
    """

    def __init__(self, probability: Tensor, values: Tensor, alpha: float, weight: Tensor) -> None:
        self.expected = probability.unsqueeze(2) * values
        self.alpha, self.weight = alpha, weight

    def start(self, group: int) -> Tensor:
        """Return the shares of the gains that are left, ones [B, G, V]."""
        lists, _, values = self.expected.shape
        return self.expected.new_ones(lists, group, values)

    def gains(self, state: Tensor, position: int) -> Tensor:
        """Return float [B, G, N]."""
        weight = self.weight[:, position, None, None]
        return state @ self.expected.transpose(1, 2) * weight

    def add(self, state: Tensor, item: Tensor) -> Tensor:
        """Lower the shares of the values of item [B, G]."""
        return state * (1.0 - self.alpha * of_items(self.expected, item))


class Similarity:
    """The mean similarity of two items of a slate.

    Args:
        kernel: similarity of candidates, float [B, N, N].
        pairs: number of pairs of a full slate, float [B].
    """

    def __init__(self, kernel: Tensor, pairs: Tensor) -> None:
        self.kernel = kernel / pairs.clamp(min=1)[:, None, None]

    def start(self, group: int) -> Tensor:
        """Return the sums of similarities to the items so far, zeros [B, G, N]."""
        return self.kernel.new_zeros(len(self.kernel), group, self.kernel.shape[2])

    def gains(self, state: Tensor, _position: int) -> Tensor:
        """Return float [B, G, N]."""
        return state

    def add(self, state: Tensor, item: Tensor) -> Tensor:
        """Add the similarities to item [B, G]."""
        return state + of_items(self.kernel, item)


class Share:
    """The share of a slate's items that belong to a group, up to a target.

    Args:
        member: 0 or 1, float [B, N].
        positions: of a full slate, float [B].
        target: share above which more members gain nothing.
    """

    def __init__(self, member: Tensor, positions: Tensor, target: float) -> None:
        self.member = (member / positions[:, None]).unsqueeze(2)
        self.target = target

    def start(self, group: int) -> Tensor:
        """Return the shares so far, zeros [B, G, 1]."""
        return self.member.new_zeros(len(self.member), group, 1)

    def gains(self, state: Tensor, _position: int) -> Tensor:
        """Return float [B, G, N]."""
        after = state + self.member.transpose(1, 2)
        return after.clamp(max=self.target) - state.clamp(max=self.target)

    def add(self, state: Tensor, item: Tensor) -> Tensor:
        """Count item [B, G]."""
        return state + of_items(self.member, item)


def of_items(table: Tensor, item: Tensor) -> Tensor:
    """Return the rows [B, G, X] of items int64 [B, G] of a table [B, N, X]; zeros for -1."""
    index = item.clamp(min=0).unsqueeze(2).expand(-1, -1, table.shape[2])
    return table.gather(1, index) * (item >= 0).unsqueeze(2)


class Attribute:
    """A feature of a term, read from the tokens or numbers of a batch.

    Raises ConfigError for a feature or a value that the schema lacks, or of which a term of this
    kind cannot be computed.
    """

    def __init__(self, path: str, term: TermConfig, featuriser: Featuriser) -> None:
        """path: of the term in the configuration, for errors."""
        layout = featuriser.layout
        self.feature = feature = layout.features.get(term.by)
        usable = [
            f.name
            for f in layout.features.values()
            if f.of in ("item", "candidate")
            and (
                (f.kind in VALUE_KINDS and f.buckets is None)
                or (f.kind == "vector" and f.input and term.kind == "similarity")
            )
        ]
        if feature is None or feature.name not in usable:
            raise ConfigError(
                f"{path}.by: must be one of {', '.join(usable) or 'no feature of this schema'}, "
                f"got {term.by!r}"
            )
        self.is_vector = feature.kind == "vector"
        if self.is_vector and term.kernel != "cosine":
            raise ConfigError(
                f"{path}.kernel: must be cosine for the vector {term.by!r}, got {term.kernel!r}"
            )
        self.place = layout.columns(feature) if self.is_vector else layout.slots(feature)
        self.first = 0 if self.is_vector else layout.first_token[feature.name]
        self.member = 0
        if term.value is not None:
            words = featuriser.vocabulary(feature.name)
            position = int(words.find([term.value])[0])
            if position == len(words):
                raise ConfigError(
                    f"{path}.value: must be a value of {term.by!r}, got {term.value!r}"
                )
            self.member = self.first + 1 + position

    def values(self, tokens: Tensor) -> Tensor:
        """Return the values of candidates with tokens [B, N, T], 0 or 1, float [B, N, V].

        Every list has a numbering of its own, with at least one value. Values outside of the
        vocabulary count as none, because two of them may differ.
        """
        return number_values(tokens[:, :, self.place], self.first)

    def members(self, tokens: Tensor) -> Tensor:
        """Return 1 for candidates that have the value of the term, float [B, N]."""
        return (tokens[:, :, self.place] == self.member).any(dim=2).float()

    def kernel(self, numbers: Tensor, tokens: Tensor, name: str) -> Tensor:
        """Return the similarity of candidates, float [B, N, N] with zeros on the diagonal."""
        table = numbers[:, :, self.place] if self.is_vector else self.values(tokens)
        if name == "cosine":
            unit = table / table.norm(dim=2, keepdim=True).clamp(min=1e-9)
            kernel = unit @ unit.transpose(1, 2)
        else:
            shared, size = table @ table.transpose(1, 2), table.sum(dim=2)
            kernel = shared / (size.unsqueeze(1) + size.unsqueeze(2) - shared).clamp(min=1)
        return kernel * (1.0 - torch.eye(table.shape[1], device=table.device))


def number_values(tokens: Tensor, first: int) -> Tensor:
    """Number the values of every list by themselves: tokens [B, N, S] -> 0 or 1, float [B, N, V].

    Tokens up to `first` are no values.
    """
    lists, candidates, _ = tokens.shape
    row, candidate, slot = torch.nonzero(tokens > first, as_tuple=True)
    token = tokens[row, candidate, slot]
    span = int(token.max()) + 1 if len(token) else 1
    distinct, inverse = torch.unique(row * span + token, return_inverse=True)
    counts = torch.bincount(distinct // span, minlength=lists)
    column = inverse - (counts.cumsum(0) - counts)[row]
    width = max(1, int(counts.max()))
    values = torch.zeros(lists, candidates, width, device=tokens.device)
    values[row, candidate, column] = 1.0
    return values


def build_term(
    term: TermConfig, attribute: Attribute, batch: Batch, probability: Tensor, filled: Tensor
) -> ListTerm:
    """Compute a term on the lists of a batch.

    Args:
        probability: of a like, float [B, N], 0 where padded.
        filled: true at the positions that a slate fills, bool [B, K].
    """
    positions = filled.sum(dim=1).float()
    if term.kind == "similarity":
        kernel = attribute.kernel(batch.numbers, batch.tokens, term.kernel)
        return Similarity(kernel, positions * (positions - 1) / 2)
    if term.kind == "share":
        return Share(attribute.members(batch.tokens), positions, term.target)
    values = attribute.values(batch.tokens)
    if term.kind == "coverage":
        present = values.any(dim=1).sum(dim=1).clamp(min=1)
        return ExpectedValues(probability, values, 1.0, filled / present.unsqueeze(1))
    weight = discount(filled.shape[1], filled.device) * filled
    return ExpectedValues(probability, values, term.alpha, weight / weight.sum(dim=1, keepdim=True))
