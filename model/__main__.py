"""python -m model COMMAND: prepare and first-stage, train, evaluate, report, world ..."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from model.study import commands
from service.engine.contract import BundleError
from service.engine.features.encoding import FeatureError
from service.engine.features.schema import SchemaError


def main() -> int:
    """Run one command; exit status 2 for bad input, in one line, and 130 after Ctrl-C."""
    command = sys.argv[1] if len(sys.argv) > 1 else "model"
    try:
        # Imports take seconds; inside, so that Ctrl-C during them is told like any other.
        arguments = parse()
        run = globals()[f"run_{arguments.command.replace('-', '_')}"]
        status: int = run(arguments)
        return status
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except (BundleError, SchemaError, FeatureError, OSError, ValueError) as error:
        if type(error) is ValueError:  # only our own kinds of it are about the input
            raise
        print(f"{command}: {error}", file=sys.stderr)
        return 2


def parse() -> argparse.Namespace:
    """The command line."""
    from model.data import prepare

    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    prepare.add_arguments(subparsers.add_parser("prepare", help="write a canonical data set"))
    initial = subparsers.add_parser("first-stage", help="add a first stage's score to a data set")
    initial.add_argument("--data", type=Path, default=Path("build/ranklens/warm"))
    initial.add_argument("--out", type=Path, required=True, help="the same lists with scores")
    train = subparsers.add_parser("train", help="train evaluator and generator; resumes")
    train.add_argument("--config", type=Path, required=True, help="YAML, see docs/model.md")
    train.add_argument("--data", type=Path, required=True, help="canonical data set")
    train.add_argument("--out", type=Path, required=True, help="directory of this run")
    train.add_argument("--smoke", action="store_true", help="the same line in miniature")
    train.add_argument("--seed", type=int, help="instead of the configuration's")
    train.add_argument("--budget", type=int, help="instead of the configuration's S")
    train.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    train.add_argument(
        "--precision",
        choices=["float32", "bfloat16"],
        help="of what is differentiated; by default bfloat16 on CUDA, float32 on the CPU",
    )
    start = train.add_mutually_exclusive_group()
    start.add_argument("--start-from", type=Path, help="reuse the evaluator of a finished run")
    start.add_argument(
        "--plug-into", type=Path, help="go on from a finished run, say of a host, with GRPO"
    )
    evaluate = subparsers.add_parser("evaluate", help="measure a bundle through its session")
    evaluate.add_argument("--bundle", type=Path, required=True)
    evaluate.add_argument("--data", type=Path, default=Path("build/ranklens/warm"))
    evaluate.add_argument("--split", default="test", choices=["train", "valid", "test"])
    evaluate.add_argument("--url", help="ask this running service of the same bundle instead")
    places = "default: {}, with --smoke build/smoke/{}"
    report = subparsers.add_parser("report", help="train and compare over seeds; resumes")
    report.add_argument("--data", type=Path, default=Path("build/ranklens"))
    report.add_argument("--config", type=Path, default=Path("model/configs/ranklens.yaml"))
    report.add_argument("--out", type=Path, help=places.format("docs/reports", "reports"))
    report.add_argument("--cache", type=Path, help=places.format("build/report", "report"))
    report.add_argument("--seeds", type=int, default=5)
    report.add_argument("--movielens", type=Path, default=Path("build/movielens"))
    report.add_argument("--no-training", action="store_true", help="write what the cache has")
    report.add_argument(
        "--fresh", action="store_true", help="forget the rows of a report that stands in --out"
    )
    report.add_argument("--smoke", action="store_true", help="a miniature, for tests")
    evaluator = subparsers.add_parser(
        "evaluator", help="report how far the evaluator can be trusted"
    )
    evaluator.add_argument("--run", type=Path, default=Path("build/checkpoints/ranklens"))
    evaluator.add_argument("--data", type=Path, default=Path("build/ranklens/warm"))
    evaluator.add_argument("--out", type=Path, default=Path("docs/reports"))
    world = subparsers.add_parser("world", help="train and report in a world of known truth")
    world.add_argument("--reward", choices=["evaluator", "law"], default="evaluator")
    world.add_argument(
        "--config", type=Path, help="default: model/configs/world.yaml, or world_law"
    )
    world.add_argument("--hosts", nargs="+", default=["transformer", "gru", "pointer"])
    world.add_argument("--out", type=Path, help=places.format("docs/reports", "reports"))
    world.add_argument("--cache", type=Path, help=places.format("build/world", "world"))
    world.add_argument("--seeds", type=int, default=5)
    world.add_argument("--run", type=Path, help="only print worth and regret of this run")
    world.add_argument("--smoke", action="store_true", help="a miniature, for tests")
    throughput = subparsers.add_parser("throughput", help="time GRPO rounds and name their costs")
    throughput.add_argument("--config", type=Path, default=Path("model/configs/ranklens.yaml"))
    throughput.add_argument("--data", type=Path, default=Path("build/ranklens/warm"))
    throughput.add_argument("--threads", type=int, default=1)
    throughput.add_argument("--rounds", type=int, default=16)
    throughput.add_argument("--batch", type=int, help="requests per round, not the configuration's")
    scale = subparsers.add_parser("scale", help="memory and speed on drawn logs of any size")
    scale.add_argument("--config", type=Path, default=Path("model/configs/ranklens.yaml"))
    scale.add_argument("--out", type=Path, help=places.format("docs/reports", "reports"))
    scale.add_argument("--cache", type=Path, help=places.format("build/scale", "scale"))
    scale.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    scale.add_argument("--smoke", action="store_true", help="a miniature, for tests")
    return parser.parse_args()


def run_prepare(arguments: argparse.Namespace) -> int:
    """Write a canonical data set."""
    from model.data import prepare

    return prepare.run(arguments)


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The parsed flags of a command as the fields of its dataclass; lists become tuples."""
    values = {key: value for key, value in vars(arguments).items() if key != "command"}
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}


def run_first_stage(arguments: argparse.Namespace) -> int:
    """Write a data set again, with a first stage's score."""
    return commands.FirstStage(**options_of(arguments)).execute()


def run_train(arguments: argparse.Namespace) -> int:
    """Train, or finish training."""
    import torch

    from model.learning.machine import machine, rank
    from model.learning.train import train
    from model.network.config import Config

    # As fast as two at this size (python -m model throughput), and the sums, and so the weights,
    # do not depend on how many cores a machine has.
    torch.set_num_threads(1)
    config = Config.load(arguments.config)
    if arguments.seed is not None:
        config = dataclasses.replace(config, seed=arguments.seed)
    if arguments.budget is not None:
        reasoning = dataclasses.replace(config.reasoning, budget=arguments.budget)
        config = dataclasses.replace(config, reasoning=reasoning)
    if arguments.smoke:
        config = config.smoke()
    with machine(arguments.device, arguments.precision) as here:
        plug_in = arguments.plug_into is not None
        start = arguments.plug_into if plug_in else arguments.start_from
        state = train(config, arguments.data, arguments.out, start, here, plug_in)
        if not rank():
            result = state.to_json()
            printed = {key: result[key] for key in ("threshold", "seconds", "validation")}
            print(json.dumps(printed, indent=1))
    return 0


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Measure a bundle."""
    from model.learning.evaluate import evaluate, through_http
    from service.engine.session import Session

    session = Session.load(arguments.bundle)
    ask = through_http(arguments.url) if arguments.url else None
    print(json.dumps(evaluate(session, arguments.data, arguments.split, ask), indent=1))
    return 0


def run_report(arguments: argparse.Namespace) -> int:
    """Train and compare over seeds, then write the report."""
    return commands.Report(**options_of(arguments)).execute()


def run_evaluator(arguments: argparse.Namespace) -> int:
    """Examine the evaluator of a finished run."""
    return commands.EvaluatorReport(**options_of(arguments)).execute()


def run_world(arguments: argparse.Namespace) -> int:
    """Train in the simulated environment, then write its report."""
    return commands.World(**options_of(arguments)).execute()


def run_scale(arguments: argparse.Namespace) -> int:
    """Write, featurise and train on synthetic logs, then write the report."""
    return commands.Scale(**options_of(arguments)).execute()


def run_throughput(arguments: argparse.Namespace) -> int:
    """Print requests per second of GRPO and the operators that cost most."""
    return commands.Throughput(**options_of(arguments)).execute()


if __name__ == "__main__":
    status = main()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # gloo's threads now and then abort a process that ends in good order: all is written.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
