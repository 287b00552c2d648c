"""Prepare data, train, evaluate and report: `python -m model COMMAND --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from tyro.conf import subcommand

from model.data.commands import Featurise, Prepare, Titles
from model.data.join.commands import Join
from model.data.options import refuse_repeats
from model.experiment.commands import Experiment
from model.learning.commands import Evaluate, Train
from model.offline.commands import Compare, Coverage
from model.retraining.commands import Retrain
from model.study.budget_command import BudgetReport
from model.study.commands import (
    Diversity,
    EvaluatorReport,
    FirstStage,
    Graded,
    Recency,
    Scale,
    Throughput,
    World,
    Worth,
)
from model.study.report_command import Report
from model.study.search_command import Search
from service.engine.contract import BundleError

Command = (
    Annotated[Prepare, subcommand("prepare")]
    | Annotated[Join, subcommand("join")]
    | Annotated[Featurise, subcommand("featurise")]
    | Annotated[FirstStage, subcommand("first-stage")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Report, subcommand("report")]
    | Annotated[EvaluatorReport, subcommand("evaluator")]
    | Annotated[World, subcommand("world")]
    | Annotated[Throughput, subcommand("throughput")]
    | Annotated[Scale, subcommand("scale")]
    | Annotated[Graded, subcommand("graded")]
    | Annotated[Worth, subcommand("worth")]
    | Annotated[Recency, subcommand("recency")]
    | Annotated[Diversity, subcommand("diversity")]
    | Annotated[Search, subcommand("search")]
    | Annotated[BudgetReport, subcommand("budget")]
    | Annotated[Compare, subcommand("compare")]
    | Annotated[Coverage, subcommand("coverage")]
    | Annotated[Titles, subcommand("titles")]
    | Annotated[Retrain, subcommand("retrain")]
    | Annotated[Experiment, subcommand("experiment")]
)


def main(arguments: Sequence[str]) -> int:
    """Run one command; exit status 2 and the reason for bad input, and 130 after Ctrl-C."""
    try:
        command: Command = tyro.cli(
            Command,
            prog="python -m model",
            description=__doc__,
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
        )
        refuse_repeats(arguments, command)
        return command.execute()
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except (BundleError, OSError, ValueError) as error:
        if type(error) is ValueError:  # not one of the project's errors about input: a bug
            raise
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    status = main(sys.argv[1:])
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # Threads of gloo now and then abort a process at exit, after all files are written.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
