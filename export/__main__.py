"""python -m export --checkpoint DIR --out bundles/NAME/VERSION; or bench | tune | cuda."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from export import bundle, tune
from export.bench import bench, cuda
from export.verify import VerificationError
from model.data.errors import DataError
from model.learning import checkpoint
from service.engine.contract import BundleError
from service.engine.features.featuriser import FeatureError


def parse() -> argparse.Namespace:
    """The command line: a checkpoint to export, or `bench`, `tune` or `cuda`."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="a finished training run")
    parser.add_argument("--out", type=Path, help="bundles/NAME/VERSION")
    parser.add_argument(
        "--data", type=Path, help="data set for the offline metrics (default: the trained one)"
    )
    commands = parser.add_subparsers(dest="command")
    shown = argparse.ArgumentDefaultsHelpFormatter
    timing = commands.add_parser(
        "bench", help="time every form of the graph (ten minutes)", formatter_class=shown
    )
    timing.add_argument("--config", type=Path, default=Path("model/configs/served.yaml"))
    timing.add_argument(
        "--out",
        type=Path,
        default=Path("docs/reports"),
        help="whose inference.* it replaces",
    )
    timing.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"))
    timing.add_argument(
        "--data", type=Path, default=Path("build/ranklens/warm"), help="test lists for int8"
    )
    timing.add_argument("--seconds", type=float, default=4.0, help="per variant and size")
    timing.add_argument("--smoke", action="store_true", help="a miniature, for tests")
    tuning = commands.add_parser(
        "tune", help="measure how this machine serves a bundle best", formatter_class=shown
    )
    tuning.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"))
    tuning.add_argument(
        "--out", type=Path, default=Path("build/profile.json"), help="where to write it"
    )
    tuning.add_argument("--candidates", type=int, default=50, help="of the lists")
    tuning.add_argument("--budget-ms", type=float, default=10.0, help="p99 that a run must keep")
    tuning.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        help="per threads and batch; more is steadier",
    )
    checking = commands.add_parser(
        "cuda", help="compare the GPU with the CPU, and time both", formatter_class=shown
    )
    checking.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"))
    checking.add_argument(
        "--out", type=Path, default=Path("docs/reports"), help="whose cuda.* it replaces"
    )
    checking.add_argument("--batches", type=int, default=1000, help="to compare, of 1 to 16 lists")
    checking.add_argument("--seconds", type=float, default=1.0, help="per batch and list size")
    arguments = parser.parse_args()
    if arguments.command is None:
        for name in ("checkpoint", "out"):
            if getattr(arguments, name) is None:
                parser.error(f"--{name} is required")
    return arguments


def main() -> int:
    """Export one checkpoint, or measure; exit status 2 for a refusal, in one line."""
    arguments = parse()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # silent about absent torchvision
    try:
        if arguments.command == "bench":
            bench.bench(arguments)
            return 0
        if arguments.command == "tune":
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            profile = tune.tune(arguments)
            chosen = {name: profile[name] for name in ("threads", "spinning", "max_batch_size")}
            print(json.dumps(chosen))
            return 0
        if arguments.command == "cuda":
            print(json.dumps(cuda.check(arguments)["agreement"]))
            return 0
        trained = checkpoint.load(arguments.checkpoint)
        data = arguments.data or Path(trained.info["data"])
        outcome = bundle.write(trained, arguments.out, data)
    except KeyboardInterrupt:
        print("export: interrupted", file=sys.stderr)
        return 130
    except (
        checkpoint.CheckpointError,
        BundleError,
        DataError,
        FeatureError,
        VerificationError,
        tune.TuneError,
        cuda.CudaError,
        OSError,
    ) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    print(json.dumps(outcome, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
