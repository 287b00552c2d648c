"""Training runs in miniature."""

from pathlib import Path

from model.learning import checkpoint
from model.network.config import Config

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "model" / "configs" / "ranklens.yaml"
SMOKE = Config.load(CONFIG).smoke()


def tensors_of(directory):
    """Return the tensors of the run in a directory."""
    return checkpoint.read(directory)[1]
