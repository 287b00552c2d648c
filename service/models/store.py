"""A store of bundles, `<name>/<version>/`, and what of each model is served.

That stands in `<name>/serving.json`, which every worker process reads again when it changes;
without the file the highest version is served and everything else is left alone:

    {"active": "2", "canary": {"version": "3", "share": 0.1}, "shadow": "4"}
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.engine.contract import MANIFEST, BundleError

SERVING = "serving.json"
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


Version = Annotated[str, Field(pattern=NAME.pattern + "$")]


class CanaryBody(BaseModel):
    """The version that a share of the users gets."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    version: Version
    share: float = Field(ge=0, le=1)


class ServingBody(BaseModel):
    """`serving.json`, and what the admin route takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    active: Version
    canary: CanaryBody | None = None
    shadow: Version | None = None


@dataclass(frozen=True)
class ServingConfig:
    """What is served of one model; a share of users, by hash, is answered by the canary."""

    active: str
    canary: str | None = None
    share: float = 0.0
    shadow: str | None = None

    @classmethod
    def read(cls, directory: Path) -> ServingConfig:
        """From `serving.json`, or the highest version there is. Raises BundleError."""
        path = directory / SERVING
        try:
            payload = json.loads(path.read_bytes())
        except FileNotFoundError:
            versions = versions_of(directory)
            if not versions:
                raise BundleError(
                    f"{directory}: no bundle in it, looked for */{MANIFEST}"
                ) from None
            return cls(versions[-1])
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{path}: does not read ({error})") from None
        return cls.parsed(payload, str(path))

    @classmethod
    def parsed(cls, payload: Any, where: str) -> ServingConfig:
        """From JSON. Raises BundleError naming `where`, field, rule and value."""
        try:
            body = ServingBody.model_validate(payload)
        except ValidationError as error:
            entry = error.errors(include_url=False)[0]
            field = ".".join(map(str, entry["loc"])) or "body"
            shown = reprlib.repr(entry["input"])
            raise BundleError(f"{where}: {field}: {entry['msg']}, got {shown}") from None
        return cls.of(body)

    @classmethod
    def of(cls, body: ServingBody) -> ServingConfig:
        """From what has been checked field by field."""
        canary = body.canary
        share = canary.share if canary else 0.0
        return cls(body.active, canary.version if canary else None, share, body.shadow)

    def write(self, directory: Path) -> None:
        """Replace `serving.json`, whole or not at all."""
        payload: dict[str, Any] = {"active": self.active}
        if self.canary is not None:
            payload["canary"] = {"version": self.canary, "share": self.share}
        if self.shadow is not None:
            payload["shadow"] = self.shadow
        building = directory / f".{SERVING}.{os.getpid()}"
        building.write_text(json.dumps(payload) + "\n", encoding="utf-8")
        os.replace(building, directory / SERVING)

    def versions(self) -> set[str]:
        """All that must be loaded."""
        return {v for v in (self.active, self.canary, self.shadow) if v is not None}


def versions_of(directory: Path) -> Sequence[str]:
    """The bundles of one model, lowest version first; numbers count as numbers."""
    names = (path.parent.name for path in directory.glob(f"*/{MANIFEST}"))
    found = [name for name in names if NAME.fullmatch(name)]

    def key(version: str) -> list[tuple[int, int | str]]:
        parts = re.findall(r"\d+|\D+", version)
        return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]

    return sorted(found, key=key)


def models_of(store: Path) -> Sequence[str]:
    """The models of a store, by name."""
    if not store.is_dir():
        return []
    return sorted(d.name for d in store.iterdir() if NAME.fullmatch(d.name) and versions_of(d))


def stamp_of(directory: Path) -> tuple[Any, ...]:
    """Changes when anything of a model's directory does that could make it servable."""
    paths = [directory / SERVING, *sorted(directory.glob("*/*"))]
    return tuple(
        (str(path), found.st_mtime_ns, found.st_size)
        for path in paths
        if path.exists() and (found := path.stat())
    )


def in_canary(name: str, user_id: str, share: float) -> bool:
    """Sticky: the same user always, and who is in at a share stays in at a larger one."""
    digest = hashlib.blake2b(f"{name}\0{user_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
