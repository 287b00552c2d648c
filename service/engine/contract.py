"""The contract of export and service: tensor names, dtypes, axes, file names and the manifest.

Axes: B batch, N candidates, K positions of the slate, F numeric columns, T token columns.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CONTRACT_VERSION = 2

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Table = dict[str, tuple[type[np.generic], tuple[str, ...]]]

# Graph inputs. Lists are encoded once; R slates are decoded over them, so that several slates of a
# list share its encoding. Everything but numbers, tokens and mask is per slate: one uncertain,
# impatient or constrained request never changes what its batch neighbours get.
INPUTS: Table = {
    "numbers": (np.float32, ("B", "N", "F")),
    "tokens": (np.int64, ("B", "N", "T")),
    "mask": (np.bool_, ("B", "N")),  # true at candidates, false at padding
    "list": (np.int64, ("R",)),  # which list a slate is of
    "length": (np.int64, ("R",)),  # positions to fill, at most K
    "budget": (np.int64, ("R",)),  # most reasoning steps per position
    "entropy_threshold": (np.float32, ("R",)),  # nats
    "reason_temperature": (np.float32, ("R",)),
    "recommend_temperature": (np.float32, ("R",)),
    # Added to log-probabilities before the highest is taken: 0 is greedy, Gumbel noise samples.
    "noise": (np.float32, ("R", "K", "G")),  # G is N, or 1 where nothing is sampled
    "pinned": (np.int64, ("R", "K")),  # the candidate of a position, -1 where it is free
    "group": (np.int64, ("R", "N")),
    # A candidate may be chosen while fewer than its quota of its group are chosen; 0: never.
    "quota": (np.float32, ("R", "N")),
}
# Graph outputs. `slate` holds candidate indices, -1 past the slate's length. A pinned position is
# no choice: its log-probability and entropies are 0.
OUTPUTS: Table = {
    "slate": (np.int64, ("R", "K")),
    "logprob": (np.float32, ("R", "K")),
    "entropy_before": (np.float32, ("R", "K")),
    "entropy_after": (np.float32, ("R", "K")),
    "steps": (np.int64, ("R", "K")),
    "logits": (np.float32, ("R", "K", "N")),  # of the choices, -1e9 where not available
}
# The evaluator's graph estimates the utility of finished slates.
EVALUATOR_INPUTS: Table = {
    "numbers": (np.float32, ("B", "N", "F")),
    "tokens": (np.int64, ("B", "N", "T")),
    "list": (np.int64, ("R",)),
    "slate": (np.int64, ("R", "K")),
}
EVALUATOR_OUTPUTS: Table = {
    "likes": (np.float32, ("R", "K")),  # estimated probabilities
    "utility": (np.float32, ("R",)),
}

IDS_SUFFIXES = ("text.npy", "ends.npy", "hashes.npy", "order.npy")
MANIFEST = "manifest.json"
SEAL = "manifest.sha256"  # of the manifest's bytes, which itself vouches for every other file
GENERATOR = "generator.onnx"  # the gated form: a branch skips steps that no slate needs
STATIC = "generator.static.onnx"  # the same without control flow, for CUDA graphs
EVALUATOR = "evaluator.onnx"
FEATURES = "features.json"
ITEMS = "items.npz"
STATISTICS = "statistics.npz"  # optional: the moment of the item table, and counts of statistics
GOLDEN = "golden.json"


class BundleError(ValueError):
    """A bundle must not be served; the message names the file, its value and the expected one."""


@dataclass(frozen=True)
class Manifest:
    """The contents of a bundle.

    `budget` is the most reasoning steps per position that the graph holds (the default too);
    `entropy_threshold` is in nats; `files` maps each file to its SHA-256 and size in bytes; `as_of`
    is the moment of the item table in ISO 8601, absent from the file if None.
    """

    name: str
    version: str
    slate_length: int
    budget: int
    entropy_threshold: float
    reason_temperature: float
    recommend_temperature: float
    max_candidates: int
    numbers: int
    tokens: int
    offline_metrics: dict[str, Any]
    training: dict[str, Any]
    files: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    contract_version: int = CONTRACT_VERSION
    as_of: str | None = None

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Read `manifest.json`. Raises BundleError for anything but a manifest of this contract."""
        path = directory / MANIFEST
        try:
            content = path.read_bytes()
            seal = (directory / SEAL).read_bytes()
        except FileNotFoundError as error:
            name = error.filename
            raise BundleError(f"{name}: no such file; every bundle must have it") from None
        digest = hashlib.sha256(content).hexdigest()
        if seal != f"{digest}\n".encode():
            sealed = seal[:64].decode("ascii", "replace")
            raise BundleError(f"{path}: SHA-256 is {digest}, but {SEAL} says {sealed!r}")
        try:
            payload = json.loads(content)
        except ValueError as error:
            raise BundleError(f"{path}: not JSON ({error})") from None
        version = payload.get("contract_version") if isinstance(payload, dict) else None
        if version != CONTRACT_VERSION:
            raise BundleError(
                f"{path}: contract_version is {version!r}, but this service reads "
                f"{CONTRACT_VERSION}; export the bundle again"
            )
        fields = {field.name for field in dataclasses.fields(cls)}
        missing = fields - payload.keys() - {"as_of"}
        if missing or payload.keys() - fields:
            raise BundleError(
                f"{path}: fields missing {sorted(missing)}, "
                f"unknown {sorted(payload.keys() - fields)}"
            )
        return cls(**payload)

    def write(self, directory: Path) -> Manifest:
        """Write `manifest.json` with the hashes of the files in `directory`, and its seal.

        Returns the manifest written.
        """
        files = {
            path.name: {"sha256": sha256(path), "size": path.stat().st_size}
            for path in sorted(directory.iterdir())
            if path.name not in (MANIFEST, SEAL)
        }
        complete = dataclasses.replace(self, files=files)
        payload = dataclasses.asdict(complete)
        if self.as_of is None:
            del payload["as_of"]
        text = json.dumps(payload, indent=1, ensure_ascii=False)
        content = f"{text}\n".encode()
        (directory / MANIFEST).write_bytes(content)
        seal = hashlib.sha256(content).hexdigest()
        (directory / SEAL).write_text(f"{seal}\n", encoding="ascii")
        return complete

    def verify_files(self, directory: Path) -> None:
        """Compare every file with the manifest.

        Raises BundleError naming the first file that is missing or whose size or SHA-256 differs.
        """
        for required in (GENERATOR, STATIC, EVALUATOR, FEATURES, ITEMS, GOLDEN):
            if required not in self.files:
                raise BundleError(f"{directory / MANIFEST}: files must name {required!r}")
        for name, expected in self.files.items():
            path = directory / name
            if Path(name).name != name or not path.is_file():
                raise BundleError(f"{path}: the manifest names it, but the bundle lacks it")
            size = path.stat().st_size
            if size != expected["size"]:
                raise BundleError(f"{path}: {size} bytes, but the manifest says {expected['size']}")
            digest = sha256(path)
            if digest != expected["sha256"]:
                raise BundleError(
                    f"{path}: SHA-256 is {digest}, but the manifest says {expected['sha256']}"
                )


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
