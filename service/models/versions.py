"""The versions of a model in a store: directories that their manifest names, lowest first.

A store also holds other directories: a copy under way (`2.tmp`), a backup (`1.bak`), a link
(`latest -> 1`). They are ignored, each with the reason.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.engine.contract import MANIFEST

SERVING = "serving.json"
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
STAGES = ("dev", "alpha", "beta", "rc")  # before a release, lowest first
STAGE = re.compile(rf"(?:[-._]|(?<=[0-9]))({'|'.join(STAGES)})(?![A-Za-z])", re.IGNORECASE)
# Other errors, of a network volume for example, say nothing about the directory.
UNUSABLE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP}
CACHED_MANIFESTS = 1024
NAMED = 3  # ignored directories that one error names

VersionKey = tuple[list[tuple[int, int | str]], str]


@dataclass(frozen=True)
class ModelScan:
    """The versions of one model, lowest first, and the directories ignored, with the reasons.

    damaged: the ignored ones whose manifest exists and cannot be read.
    """

    versions: Sequence[str]
    ignored: Mapping[Path, str]
    damaged: Sequence[Path]

    @property
    def reasons(self) -> str:
        """The first ignored directories in one line; "nothing" if there are none."""
        lines = [f"{path.name}: {reason}" for path, reason in self.ignored.items()]
        more = [f"and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
        return "; ".join([*lines[:NAMED], *more]) or "nothing"


@dataclass(frozen=True)
class StoreScan:
    """The names of the models in a store, sorted, and the directories ignored, with the reasons."""

    models: Sequence[str]
    ignored: Mapping[Path, str]


class DamagedManifest(Exception):
    """A manifest exists and cannot be read. The message is the reason."""


def version_key(version: str) -> VersionKey:
    """Return a sort key: digits compare as numbers, and `1.0-rc1` is below `1.0`.

    Without regard to case, the stages are in the order of STAGES and follow a separator or a digit.
    """
    parts: list[tuple[int, int | str]] = []
    for index, text in enumerate(STAGE.split(version)):
        if index % 2:  # split returns texts and stages by turns
            parts.append((-1, STAGES.index(text.lower())))
            continue
        for part in re.findall(r"\d+|\D+", text):
            parts.append((1, int(part)) if part.isdigit() else (2, part))
    return [*parts, (0, 0)], version  # the end sorts above a stage and below any other part


def scan_model(directory: Path) -> ModelScan:
    """Look for the versions of one model. Raises OSError if the volume fails.

    Names that begin with a dot are neither versions nor reported.
    """
    versions, ignored, damaged = [], {}, []
    for path in subdirectories(directory):
        if not NAME.fullmatch(path.name):
            ignored[path] = f"the name must match {NAME.pattern}"
            continue
        try:
            identity = manifest_identity(path)
        except DamagedManifest as error:
            ignored[path] = str(error)
            damaged.append(path)
            continue
        if identity is None:
            ignored[path] = f"it has no {MANIFEST}"
        elif identity != (directory.name, path.name):
            ignored[path] = f"its manifest says {'/'.join(identity)}"
        else:
            versions.append(path.name)
    return ModelScan(sorted(versions, key=version_key), ignored, damaged)


def scan_store(store: Path) -> StoreScan:
    """Look for the models of a store: the directories that hold a version.

    A directory with `serving.json` and a damaged manifest is a model too: to ignore it would hide
    the damage. Raises OSError if the volume fails.
    """
    models, ignored = [], {}
    for directory in subdirectories(store):
        if not NAME.fullmatch(directory.name):
            ignored[directory] = f"the name must match {NAME.pattern}"
            continue
        scan = scan_model(directory)
        if scan.versions or (scan.damaged and (directory / SERVING).is_file()):
            models.append(directory.name)
            ignored |= scan.ignored
        else:
            ignored[directory] = f"it holds no version (ignored: {scan.reasons})"
    return StoreScan(models, ignored)


def subdirectories(directory: Path) -> Sequence[Path]:
    """Return the directories in a directory, sorted; empty if it cannot be opened."""
    try:
        with os.scandir(directory) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        return []
    return [directory / name for name in names]


def manifest_identity(directory: Path) -> tuple[str, str] | None:
    """Return name and version in the manifest of a directory; None if it has no manifest.

    Raises DamagedManifest, or OSError if the volume fails.
    """
    path = directory / MANIFEST
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DamagedManifest(f"its {MANIFEST} is no file")
        return read_identity(path, status.st_mtime_ns, status.st_size, status.st_ino)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        if error.errno not in UNUSABLE:
            raise
        raise DamagedManifest(f"its {MANIFEST} cannot be read ({error.strerror})") from None


@functools.lru_cache(maxsize=CACHED_MANIFESTS)
def read_identity(path: Path, mtime_ns: int, size: int, inode: int) -> tuple[str, str]:
    """Return name and version in a manifest; the other arguments are the key of the cache.

    Raises DamagedManifest or OSError.
    """
    try:
        payload = json.loads(path.read_bytes())
        name, version = payload["name"], payload["version"]
    except (ValueError, RecursionError) as error:
        raise DamagedManifest(f"its {MANIFEST} cannot be read as JSON ({error})"[:200]) from None
    except (KeyError, TypeError):
        raise DamagedManifest(f"its {MANIFEST} has no name and version") from None
    if not isinstance(name, str) or not isinstance(version, str):
        raise DamagedManifest(f"its {MANIFEST} must have a name and a version that are strings")
    return name[:100], version[:100]
