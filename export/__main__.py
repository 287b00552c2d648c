"""python -m export --checkpoint DIR --out bundles/NAME/VERSION"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from export import bundle
from model import checkpoint
from model.sources import DataError
from service.contract import BundleError
from service.features import FeatureError


def main() -> int:
    """Export one checkpoint; exit status 2 for a refusal, in one line."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a finished training run")
    parser.add_argument("--out", type=Path, required=True, help="bundles/NAME/VERSION")
    parser.add_argument(
        "--data", type=Path, help="data set for the offline metrics (default: the trained one)"
    )
    arguments = parser.parse_args()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # silent about absent torchvision
    try:
        trained = checkpoint.load(arguments.checkpoint)
        data = arguments.data or Path(trained.info["data"])
        outcome = bundle.write(trained, arguments.out, data)
    except (
        checkpoint.CheckpointError,
        BundleError,
        DataError,
        FeatureError,
        bundle.VerificationError,
        OSError,
    ) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    print(json.dumps(outcome, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
