"""Write a trained checkpoint as a verified bundle, or measure exported graphs.

python -m export --checkpoint DIR --out bundles/NAME/VERSION

python -m export items    bring new and changed items into a bundle, without training

python -m export upgrade  rewrite a bundle of contract 2, or without graphs of intent

python -m export bench    time every form of the graph (ten minutes)

python -m export tune     measure how this machine serves a bundle best

python -m export cuda     compare the GPU with the CPU, and time both

python -m export features time the featuriser over wide lists

python -m export intent   time slates with diversity and boosts

python -m export catalogue measure a bundle of a million items

python -m export native   compare the native library with the graph

Each command lists its options with --help.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from export import bundle
from export.agreement import DisagreementError
from export.bench.bench import BenchOptions, bench
from export.bench.catalogue import CatalogueOptions, measure_catalogue
from export.bench.cuda import CudaOptions, check, write_page
from export.bench.features import FeaturesOptions, measure_features
from export.bench.intent import IntentOptions, measure_intent
from export.items import ItemsOptions, update_items
from export.native import NativeOptions, compare_native
from export.tune import TuneError, TuneOptions, tune
from export.upgrade import UpgradeOptions, upgrade
from export.verify import VerificationError
from model.data.errors import DataError
from model.data.options import refuse_repeats
from model.learning import checkpoint
from model.learning.worth import sentences
from service.engine.contract import BundleError
from service.engine.features.encoding import FeatureError
from service.engine.native_check import DifferenceError
from service.engine.native_library import NativeError

REFUSALS = (
    checkpoint.CheckpointError,
    BundleError,
    DataError,
    FeatureError,
    VerificationError,
    TuneError,
    DisagreementError,
    DifferenceError,
    NativeError,
    OSError,
)


@dataclass(frozen=True)
class ExportOptions:
    """Write a trained checkpoint as a verified bundle."""

    checkpoint: Path
    """Directory of a finished training run."""
    out: Path
    """Bundle to write, bundles/NAME/VERSION."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Data set of the items and the offline metrics; by default the one of the training."""
    entropy_quantile: float | None = None
    """Quantile of the entropies on validation lists that is the threshold: 0 takes every reasoning
    step, 1 none. By default validation chooses it, with the fewest steps that are worth it."""


def run_export(options: ExportOptions) -> None:
    """Write the bundle and print its verification, gate and offline metrics.

    The JSON on standard output is followed by its worth in sentences on standard error. Raises
    BundleError for an impossible quantile.
    """
    quantile = options.entropy_quantile
    if quantile is not None and not 0.0 <= quantile <= 1.0:
        raise BundleError(f"--entropy-quantile: must be from 0 to 1, got {quantile}")
    trained = checkpoint.load(options.checkpoint)
    data = options.data or Path(trained.state.data)
    outcome = bundle.write(trained, options.out, data, quantile)
    print(json.dumps(outcome, indent=1))
    answer = [] if outcome["gate"] is None else [outcome["gate"]["answer"]]
    print(*sentences(outcome["offline_metrics"]), *answer, sep="\n", file=sys.stderr)


def run_items(options: ItemsOptions) -> None:
    """Write a bundle with new and changed items, and print their numbers."""
    print(json.dumps(update_items(options), indent=1))


def run_upgrade(options: UpgradeOptions) -> None:
    """Rewrite a bundle, and print how far the old and the new one agree."""
    print(json.dumps(upgrade(options), indent=1))


def run_tune(options: TuneOptions) -> None:
    """Measure, write the profile, and print the settings that it chooses."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    profile = tune(options)
    print(json.dumps({name: profile[name] for name in ("threads", "spinning", "max_batch_size")}))


def run_cuda(options: CudaOptions) -> None:
    """Compare, time, write the report, and print how far both agree."""
    if options.page_only:
        write_page(options.out)
        return
    print(json.dumps(check(options)["agreement"]))


def run_native(options: NativeOptions) -> None:
    """Compare, and print how many slates are the same."""
    print(json.dumps(compare_native(options), indent=1))


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "items": (ItemsOptions, run_items),
    "upgrade": (UpgradeOptions, run_upgrade),
    "bench": (BenchOptions, bench),
    "tune": (TuneOptions, run_tune),
    "cuda": (CudaOptions, run_cuda),
    "features": (FeaturesOptions, measure_features),
    "intent": (IntentOptions, measure_intent),
    "catalogue": (CatalogueOptions, measure_catalogue),
    "native": (NativeOptions, run_native),
}


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status: 2 for a refusal, which is one line."""
    command = arguments[0] if arguments else ""
    if command in COMMANDS:
        options_type, run = COMMANDS[command]
        prog, description, rest = f"python -m export {command}", None, arguments[1:]
    else:
        options_type, run = ExportOptions, run_export
        prog, description, rest = "python -m export", __doc__, arguments
    options = tyro.cli(
        options_type,
        prog=prog,
        description=description,
        args=rest,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # silent about absent torchvision
    try:
        refuse_repeats(rest, options)
        run(options)
    except KeyboardInterrupt:
        print("export: interrupted", file=sys.stderr)
        return 130
    except REFUSALS as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
