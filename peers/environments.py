"""Python environments of the peers, one for each, made from its file of pinned packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

from peers import Peer

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / "build" / "peers"
PIP = "26.1"


def requirements_of(peer: Peer) -> Path:
    """Return the path of the peer's pinned packages."""
    return ROOT / "peers" / peer.requirements


def python_of(peer: Peer) -> Path:
    """Return the path of the interpreter that runs the peer; it may not exist yet."""
    return (peer.environment or ENVIRONMENTS / peer.module) / "bin" / "python"


def install(peer: Peer) -> None:
    """Make the peer's environment unless it has these pins already. Raises CalledProcessError."""
    if peer.environment is not None:
        return
    home, requirements = ENVIRONMENTS / peer.module, requirements_of(peer)
    installed, pins = home / ".installed", requirements.read_text("utf-8")
    if installed.exists() and installed.read_text("utf-8") == pins:
        return
    pip = [str(python_of(peer)), "-m", "pip", "install", "--quiet"]
    subprocess.run([peer.python, "-m", "venv", "--clear", str(home)], check=True)
    subprocess.run([*pip, f"pip=={PIP}"], check=True)
    subprocess.run([*pip, "--requirement", str(requirements)], check=True)
    installed.write_text(pins, "utf-8")


def version(peer: Peer | None) -> str:
    """Return the pinned version of the peer's server; None stands for this service's commit."""
    if peer is None:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return described.stdout.strip() or "unknown"
    lines = requirements_of(peer).read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and line[0] != "#")
    return pins[peer.distribution]
