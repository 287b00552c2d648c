"""The bundles that tests load."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "ranklens" / "1"
