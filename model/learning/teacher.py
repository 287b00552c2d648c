"""Teachers: searches for slates of high objective, which only training can afford.

The slates of all train lists are computed once before the stage that imitates them. Blocks of lists
lie in files of the run, so an interrupted search goes on at the first block that is missing.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from model.data.lists import Lists
from model.learning.distributed import broadcast, merge, rank, world_size
from model.learning.lookahead import best_slates, slate_values
from model.learning.objectives import ListObjective, Objective, Prefix
from model.learning.policy import Batch
from model.network.config import Config
from model.network.evaluator import RewardModel
from model.network.objectives_config import SearchConfig

LISTS_AT_ONCE = 64
LISTS_PER_FILE = 1024


def search(of_lists: ListObjective, settings: SearchConfig) -> Tensor:
    """Return the slates that the configured teacher finds, int64 [B, K], -1 past a list's end."""
    if settings.teacher == "exhaustive":
        return try_all_slates(of_lists)
    return search_beams(of_lists, settings.width if settings.teacher == "beam" else 1)


def search_beams(of_lists: ListObjective, width: int) -> Tensor:
    """Return the best slate int64 [B, K] that a beam of `width` prefixes reaches; 1 is greedy."""
    prefix, total = (
        of_lists.start(),
        torch.zeros(len(of_lists.mask), 1, device=of_lists.mask.device),
    )
    for position in range(of_lists.length):
        scores = total.unsqueeze(2) + of_lists.gains(prefix, position)
        # A beam wider than the prefixes has empty places, whose gains have no meaning.
        open_places = of_lists.available(prefix) & (total > -math.inf).unsqueeze(2)
        scores = scores.masked_fill(~open_places, -math.inf)
        # A list without a candidate left keeps its slates: the last column puts nothing.
        done = ~of_lists.filled[:, position, None]
        scores = torch.cat([scores, total.masked_fill(~done, -math.inf).unsqueeze(2)], dim=2)
        columns = scores.shape[2]
        total, best = scores.flatten(1).topk(min(width, scores[0].numel()), dim=1)
        item = best.remainder(columns)
        item = torch.where(item == columns - 1, -1, item)
        chosen: Prefix = prefix.select(best // columns)
        prefix = of_lists.extend(chosen, item, position)
    row = torch.arange(len(total), device=total.device)
    return prefix.slate[row, total.argmax(dim=1)]


def try_all_slates(of_lists: ListObjective) -> Tensor:
    """Return the best of all slates, int64 [B, K].

    Raises ConfigError for lists with more than MOST_SLATES slates.
    """
    sizes, size = of_lists.mask.sum(dim=1), of_lists.mask.shape[1]
    return best_slates(slate_values(of_lists), sizes, size, of_lists.length)


class Lessons(NamedTuple):
    """The slates of a teacher for R lists, and the values behind them.

    slates: int64 [R, K]
    values: of the exhaustive teacher, those of all slates (model.learning.lookahead), float [R, P]
    """

    slates: Tensor
    values: Tensor | None = None


@dataclass(frozen=True)
class TeacherFiles:
    """The files of a teacher's slates, or of all slates' values, for LISTS_PER_FILE lists each."""

    directory: Path
    digest: str  # of all that decides the slates

    def path(self, block: int) -> Path:
        """Return the file of a block."""
        return self.directory / f"{self.digest}-{block:06d}.npy"

    def read_all(self, blocks: int) -> dict[int, Tensor]:
        """Return slates int64 [R, K], or values, of each block that a run has finished."""
        paths = {block: self.path(block) for block in range(blocks)}
        tensors = {b: torch.from_numpy(np.load(p)) for b, p in paths.items() if p.exists()}
        return {b: t if t.is_floating_point() else t.long() for b, t in tensors.items()}

    def write(self, blocks: dict[int, Tensor]) -> None:
        """Write blocks, each under its name only when it is whole."""
        self.directory.mkdir(exist_ok=True)
        for block, tensor in blocks.items():
            array = tensor.numpy()
            temporary = self.path(block).with_suffix(".tmp")
            with temporary.open("wb") as file:
                np.save(file, array if tensor.is_floating_point() else array.astype(np.int32))
            os.replace(temporary, self.path(block))


def teacher_digest(
    config: Config, reward_model: RewardModel, lists: Lists, data_digest: str | None
) -> str:
    """Return the digest of all that decides the teacher's slates of lists."""
    search = config.search
    assert search is not None
    settings = config.objectives, config.utility, config.slate_length, search.teacher, search.width
    digest = hashlib.sha256(repr((settings, data_digest)).encode())
    if search.teacher == "exhaustive":
        digest.update(b"values of all slates")  # files of earlier versions hold the best slates
    digest.update(lists.rows.tobytes())
    digest.update(type(reward_model).__name__.encode())
    if isinstance(reward_model, nn.Module):
        for name, tensor in reward_model.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def teach(
    objective: Objective,
    settings: SearchConfig,
    lists: Lists,
    device: torch.device,
    files: TeacherFiles | None,
) -> Lessons:
    """Return the teacher's slates of lists, on the CPU.

    Args:
        files: to read and write; the ranks then share the search. Without them every rank searches
            its lists alone.
    """
    starts = range(0, len(lists), LISTS_PER_FILE)
    blocks: dict[int, Tensor] = {}
    if files is not None:
        blocks = broadcast(files.read_all(len(starts)))
    missing = [block for block in range(len(starts)) if block not in blocks]
    together = world_size() if files is not None else 1
    rounds = range(0, len(missing), together)
    for first in tqdm(rounds, "teacher", leave=False, disable=True if rank() else None):
        share = missing[first : first + together]
        mine = share if files is None else share[rank() : rank() + 1]
        made = {
            block: _search_lists(objective, settings, lists, device, starts[block])
            for block in mine
        }
        if files is not None:
            made = merge(made)
            if not rank():
                files.write(made)
        blocks |= made
    taught = torch.cat([blocks[block] for block in range(len(starts))])
    if settings.teacher != "exhaustive":
        return Lessons(taught)
    sizes = torch.from_numpy(lists.mask.sum(axis=1))
    length = len(objective.position_weight)
    return Lessons(best_slates(taught, sizes, lists.longest, length), taught)


@torch.no_grad()
def _search_lists(
    objective: Objective, settings: SearchConfig, lists: Lists, device: torch.device, first: int
) -> Tensor:
    """Search one block of lists: slates, or of the exhaustive teacher the values of all slates."""
    end, parts = min(first + LISTS_PER_FILE, len(lists)), []
    for start in range(first, end, LISTS_AT_ONCE):
        batch = Batch(lists, slice(start, min(start + LISTS_AT_ONCE, end)), device)
        of_lists = objective.of(batch)
        exhaustive = settings.teacher == "exhaustive"
        parts.append((slate_values(of_lists) if exhaustive else search(of_lists, settings)).cpu())
    return torch.cat(parts)
