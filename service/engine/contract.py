"""The contract of export and service: tensor names, dtypes, axes, file names and the manifest.

Axes: B batch, N candidates, K positions of the slate, D width of an item row, F numeric columns,
T token columns.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CONTRACT_VERSION = 3
OLD_CONTRACT = 2  # deprecated: the graphs embed numbers and tokens of the items themselves

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Table = dict[str, tuple[type[np.generic], tuple[str, ...]]]

# Graph inputs. Lists are encoded once; R slates are decoded over them, so that several slates of a
# list share its encoding. Everything but rows, numbers and mask is per slate: one uncertain,
# impatient or constrained request never changes what its batch neighbours get.
INPUTS: Table = {
    # The part of the embedding that depends on the item and the tokens of the request.
    "rows": (np.float32, ("B", "N", "D")),
    "numbers": (np.float32, ("B", "N", "F")),  # columns that depend on the request
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
# Further inputs of the generator's graph of intent (service.engine.intent): A attributes, at least
# one, and C columns. The first column is the floor of all attributes; then each attribute has one
# for each value that several candidates share, and one for all others. Those two kinds, which no
# item uses up, have retained 1. Contract 2 has no such graph.
INTENT_INPUTS: Table = {
    "boost": (np.float32, ("R", "H")),  # nats; H is N, or 1 where no slate has boosts
    "values": (np.float32, ("B", "N", "C")),  # share u of a candidate's value, 0 without it
    "member": (np.float32, ("B", "A", "C")),  # 1 where the column is of the attribute
    "diversity_weight": (np.float32, ("R", "A")),
    "retained": (np.float32, ("R", "C")),  # 1 - decay
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
# The evaluator's graph estimates the utility of finished slates. Its rows are its own.
EVALUATOR_INPUTS: Table = {
    "rows": (np.float32, ("B", "N", "D")),
    "numbers": (np.float32, ("B", "N", "F")),
    "list": (np.int64, ("R",)),
    "slate": (np.int64, ("R", "K")),
}
EVALUATOR_OUTPUTS: Table = {
    "likes": (np.float32, ("R", "K")),  # estimated probabilities
    "utility": (np.float32, ("R",)),
}
# Inputs that replace `rows` and `numbers` in the old contract: of items and request together.
OLD_LIST_INPUTS: Table = {
    "numbers": (np.float32, ("B", "N", "F")),
    "tokens": (np.int64, ("B", "N", "T")),
}

MANIFEST = "manifest.json"
SEAL = "manifest.sha256"  # of the manifest's bytes, which itself vouches for every other file
GENERATOR = "generator.onnx"  # the gated form: a branch skips steps that no slate needs
STATIC = "generator.static.onnx"  # the same without control flow, for CUDA graphs and traces
EVALUATOR = "evaluator.onnx"
# Optional, all or none: both forms with the inputs of intent, and golden requests with intent.
INTENT_GENERATOR = "generator.intent.onnx"
INTENT_STATIC = "generator.intent.static.onnx"
INTENT_GOLDEN = "golden.intent.json"
INTENT_FILES = (INTENT_GENERATOR, INTENT_STATIC, INTENT_GOLDEN)
FEATURES = "features.json"
STATISTICS = "statistics.npz"  # optional: the moment of the item table, and counts of statistics
GOLDEN = "golden.json"
ITEMS = "items.npz"  # of the old contract

# Flat arrays, which are memory-mapped. Arrays over items have a last row for unknown items.
ITEM_NUMBERS = "items.numbers.npy"
ITEM_TOKENS = "items.tokens.npy"
ITEM_IDS = "items.ids"  # prefix of the files of an id index
ITEM_WORDS = "items.words.npy"  # optional: the item of each value of the feature item_id
IDS_SUFFIXES = ("text.npy", "ends.npy", "hashes.npy", "order.npy")
NETWORKS = ("generator", "evaluator")
NETWORK_SUFFIXES = ("rows.npy", "columns.npy", "embeddings.npy")

COMMON_FILES = (GENERATOR, STATIC, EVALUATOR, FEATURES, GOLDEN)
FLAT_FILES = (
    ITEM_NUMBERS,
    ITEM_TOKENS,
    *(f"{ITEM_IDS}.{suffix}" for suffix in IDS_SUFFIXES),
    *(f"{network}.{suffix}" for network in NETWORKS for suffix in NETWORK_SUFFIXES),
)
REQUIRED_FILES = {
    OLD_CONTRACT: (*COMMON_FILES, ITEMS),
    CONTRACT_VERSION: (*COMMON_FILES, *FLAT_FILES),
}
_NUMBERED = re.compile(
    rf"(items\.vector\.\d+\.npy|vocabulary\.\d+\.({'|'.join(map(re.escape, IDS_SUFFIXES))}))"
)


def vector_file(place: int) -> str:
    """Return the file of the vectors of items of one feature, by its place in the schema."""
    return f"items.vector.{place}.npy"


def vocabulary_prefix(place: int) -> str:
    """Return the prefix of the files of a large vocabulary, by its feature's place."""
    return f"vocabulary.{place}"


def is_bundle_file(name: str) -> bool:
    """Tell if a file of this name may belong to a bundle of any contract."""
    names = (
        *COMMON_FILES,
        *FLAT_FILES,
        MANIFEST,
        SEAL,
        STATISTICS,
        ITEMS,
        ITEM_WORDS,
        *INTENT_FILES,
    )
    return name in names or _NUMBERED.fullmatch(name) is not None


def inputs_of(contract: int) -> tuple[Table, Table]:
    """Return the inputs of the generator's graph and of the evaluator's."""
    if contract == CONTRACT_VERSION:
        return INPUTS, EVALUATOR_INPUTS
    generator, evaluator = (
        OLD_LIST_INPUTS | {name: entry for name, entry in table.items() if name != "rows"}
        for table in (INPUTS, EVALUATOR_INPUTS)
    )
    return generator, evaluator


# Fields of a manifest that only bundles of one contract have, and those that any may lack.
FIELDS_OF = {OLD_CONTRACT: {"tokens"}, CONTRACT_VERSION: {"width", "items"}}
OPTIONAL_FIELDS = {"as_of", "metrics_of", "gate"}


class BundleError(ValueError):
    """A bundle must not be served; the message names the file, its value and the expected one."""


@dataclass(frozen=True)
class Manifest:
    """The contents of a bundle.

    `budget` is the most reasoning steps per position that the graph holds (the default too);
    `entropy_threshold` is in nats; `files` maps each file to its SHA-256 and size in bytes;
    `numbers` counts the numeric columns of the graph. Fields that are None are absent from the
    file: `as_of` is the moment of the item table in ISO 8601; `width` is that of the generator's
    item rows and `items` their number; `tokens` counts the token columns of the old contract;
    `metrics_of` is the bundle whose older item table `offline_metrics` were measured with; `gate`
    says how the threshold was chosen, and holds quality and cost of others (export.gate).
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
    offline_metrics: dict[str, Any]
    training: dict[str, Any]
    files: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    contract_version: int = CONTRACT_VERSION
    as_of: str | None = None
    tokens: int | None = None
    width: int | None = None
    items: int | None = None
    metrics_of: str | None = None
    gate: dict[str, Any] | None = None

    @property
    def table_bytes(self) -> int:
        """Size of the files that hold items: their ids, features and rows."""
        names = (ITEMS, *(f"{network}.{NETWORK_SUFFIXES[0]}" for network in NETWORKS))
        return sum(
            entry["size"]
            for name, entry in self.files.items()
            if name in names or name.startswith("items.")
        )

    @property
    def supports_intent(self) -> bool:
        """True if the bundle has the graphs of intent."""
        return not self.files.keys().isdisjoint(INTENT_FILES)

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
        if version not in REQUIRED_FILES:
            raise BundleError(
                f"{path}: contract_version is {version!r}, but this service reads "
                f"{OLD_CONTRACT} and {CONTRACT_VERSION}; export the bundle again"
            )
        fields = {field.name for field in dataclasses.fields(cls)}
        optional = {*OPTIONAL_FIELDS, *FIELDS_OF[OLD_CONTRACT], *FIELDS_OF[CONTRACT_VERSION]}
        missing = fields - payload.keys() - (optional - FIELDS_OF[version])
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
        payload = {n: v for n, v in dataclasses.asdict(complete).items() if v is not None}
        text = json.dumps(payload, indent=1, ensure_ascii=False)
        content = f"{text}\n".encode()
        (directory / MANIFEST).write_bytes(content)
        seal = hashlib.sha256(content).hexdigest()
        (directory / SEAL).write_text(f"{seal}\n", encoding="ascii")
        return complete

    def verify_files(self, directory: Path, digest_of: Callable[[Path], str] | None = None) -> None:
        """Compare every file with the manifest.

        Args:
            directory: the bundle.
            digest_of: returns the SHA-256 of a file; by default, it is computed from its bytes.

        Raises BundleError naming the first file that is missing or whose size or SHA-256 differs.
        """
        of_intent = INTENT_FILES if self.supports_intent else ()
        for required in (*REQUIRED_FILES[self.contract_version], *of_intent):
            if required not in self.files:
                raise BundleError(f"{directory / MANIFEST}: files must name {required!r}")
        for name, expected in self.files.items():
            path = directory / name
            if Path(name).name != name or not path.is_file():
                raise BundleError(f"{path}: the manifest names it, but the bundle lacks it")
            size = path.stat().st_size
            if size != expected["size"]:
                raise BundleError(f"{path}: {size} bytes, but the manifest says {expected['size']}")
            digest = (digest_of or sha256)(path)
            if digest != expected["sha256"]:
                raise BundleError(
                    f"{path}: SHA-256 is {digest}, but the manifest says {expected['sha256']}"
                )


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
