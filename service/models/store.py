"""A store of bundles, `NAME/VERSION/`, and the config of the versions of a model that are served.

The config is `NAME/serving.json`, which every worker process reads again when it changes. Without
the file the highest version is active, and there is neither canary nor shadow.

    {"active": "2", "canary": {"version": "3", "share": 0.1}, "shadow": "4"}
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import reprlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.engine.contract import MANIFEST, BundleError
from service.models.versions import NAME, SERVING, scan_model

LOCK = ".serving.lock"
LOCK_WAIT_S = 2.0  # holders read and replace one small file
LOCK_POLL_S = 0.005
Version = Annotated[str, Field(pattern=NAME.pattern + "$")]


class CanaryBody(BaseModel):
    """A version that a share of the users gets."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    version: Version
    share: float = Field(ge=0, le=1)


class ServingBody(BaseModel):
    """The content of `serving.json` and the body of the admin route."""

    model_config = ConfigDict(extra="forbid", strict=True)

    active: Version
    canary: CanaryBody | None = None
    shadow: Version | None = None


@dataclass(frozen=True)
class ServingConfig:
    """The served versions of one model; the canary answers a share of users, chosen by hash."""

    active: str
    canary: str | None = None
    share: float = 0.0
    shadow: str | None = None

    @classmethod
    def read(cls, directory: Path) -> ServingConfig:
        """Read `serving.json`; without it the highest version is active. Raises BundleError."""
        path = directory / SERVING
        try:
            payload = json.loads(path.read_bytes())
        except FileNotFoundError:
            scan = scan_model(directory)
            if not scan.versions:
                raise BundleError(
                    f"{directory}: no bundle in this directory; put one at VERSION/{MANIFEST}, "
                    f"ignored: {scan.reasons}"
                ) from None
            return cls(scan.versions[-1])
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{path}: cannot be read as JSON ({error})") from None
        return cls.parsed(payload, str(path))

    @classmethod
    def parsed(cls, payload: Any, where: str) -> ServingConfig:
        """Check a JSON value. Raises BundleError naming `where`, field, rule and value."""
        try:
            body = ServingBody.model_validate(payload)
        except ValidationError as error:
            entry = error.errors(include_url=False)[0]
            field = ".".join(map(str, entry["loc"])) or "body"
            value = reprlib.repr(entry["input"])
            raise BundleError(f"{where}: {field}: {entry['msg']}, got {value}") from None
        return cls.of(body)

    @classmethod
    def of(cls, body: ServingBody) -> ServingConfig:
        """Build a config from a validated body."""
        canary = body.canary
        share = canary.share if canary else 0.0
        return cls(body.active, canary.version if canary else None, share, body.shadow)

    def write(self, directory: Path) -> None:
        """Write `serving.json` atomically; hold `exclusive_config` beside other processes."""
        payload: dict[str, Any] = {"active": self.active}
        if self.canary is not None:
            payload["canary"] = {"version": self.canary, "share": self.share}
        if self.shadow is not None:
            payload["shadow"] = self.shadow
        building = directory / f".{SERVING}.{os.getpid()}"
        building.write_text(json.dumps(payload) + "\n", encoding="utf-8")
        os.replace(building, directory / SERVING)

    def write_exclusively(self, directory: Path) -> None:
        """Write `serving.json` with the lock. Raises as `exclusive_config`, for which it waits."""
        with exclusive_config(directory):
            self.write(directory)

    def versions(self) -> set[str]:
        """Return the versions that must be loaded."""
        return {v for v in (self.active, self.canary, self.shadow) if v is not None}


@contextlib.contextmanager
def exclusive_config(directory: Path) -> Iterator[None]:
    """Hold the lock under which `serving.json` of a model is read and replaced.

    Service, `retrain` and `experiment` take it, so that none undoes a change of another. Hold it
    for no longer than that. It ends with the process, and its file stays.

    Raises:
        BundleError: another process holds the lock for LOCK_WAIT_S.
        OSError: the directory cannot be written.
    """
    path = directory / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(PermissionError):  # only its owner may, and has done so
            os.fchmod(descriptor, 0o666)  # the next writer of the directory may be another user
        ends = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= ends:
                    raise BundleError(
                        f"{path}: held by another process for {LOCK_WAIT_S:g} s; end it, or try "
                        "again"
                    ) from None
                time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def stamp_of(directory: Path) -> tuple[Any, ...]:
    """Return a value that changes when a file changes that could make a config servable.

    A copy under way beside the versions does not change it. Raises OSError.
    """
    versions = scan_model(directory).versions
    files = (path for version in versions for path in sorted((directory / version).iterdir()))
    paths = [directory / SERVING, *files]
    return tuple(
        (str(path), status.st_mtime_ns, status.st_size)
        for path in paths
        if path.exists() and (status := path.stat())
    )


def in_canary(name: str, user_id: str, share: float) -> bool:
    """True if a user gets the canary: always the same, and a user stays in as the share grows."""
    digest = hashlib.blake2b(f"{name}\0{user_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
