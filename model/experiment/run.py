"""One look at an experiment: read, decide, print, and carry the decision out if it is wanted."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from model.data.join.options import read_until
from model.experiment.commands import Experiment
from model.experiment.decision import Action, Decision, decide, trajectories
from model.experiment.errors import ExperimentError
from model.experiment.outcomes import Arms, Outcomes, Span, read_outcomes
from model.experiment.report import figures_of, format_experiment, plot_experiment
from model.experiment.rules import Rules
from model.offline.journal import MS_PER_HOUR
from model.served import choose_model, manifest_digest
from service.models.store import ServingConfig, exclusive_config
from service.models.versions import SERVING


def run_experiment(options: Experiment) -> dict[str, Any] | None:
    """Print figures and decision, write them to --out, and apply the decision with --apply.

    Returns the figures, None if the store has no canary.

    Raises:
        ExperimentError: the journal has no list of the canary, the rules are wrong, or the store
            changed meanwhile.
        BundleError: the store cannot be read.
        DataError: --since or --until is no time.
    """
    rules = Rules.read(options.rules)
    directory = options.models / choose_model(options.models, options.name)
    config = ServingConfig.read(directory)
    if config.canary is None:
        print(f"{directory / SERVING}: no canary, so there is nothing to decide")
        return None
    now = time.time_ns() // 1_000_000
    until = now if options.until is None else read_until(options.until)
    since = None if options.since is None else read_until(options.since, "--since")
    window, settle = (round(h * MS_PER_HOUR) for h in (rules.window_h, rules.settle_h))
    slow = rules.guards.slow
    outcomes = read_outcomes(
        options.journal,
        Arms(*(manifest_digest(directory / each) for each in (config.active, config.canary))),
        Span(since, until, window, settle),
        rules.reward.types,
        float("inf") if slow is None else slow.above_ms,
    )
    figures = judge(outcomes, rules, config, until)
    print(format_experiment(figures))
    if options.apply:
        print(carry_out(figures["decision"]["action"], directory, config))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(figures, indent=1) + "\n"
        (options.out / "experiment.json").write_text(text, encoding="utf-8")
        paths = trajectories(outcomes, rules, config.share)
        plot_experiment(figures, paths, outcomes, options.out / "experiment.png")
    return figures


def judge(outcomes: Outcomes, rules: Rules, config: ServingConfig, until: int) -> dict[str, Any]:
    """Return all figures with the decision."""
    paths = trajectories(outcomes, rules, config.share)
    if len(outcomes.ended):
        decision = decide(paths, outcomes, rules, until)
    else:
        decision = Decision("wait", ["users: none is complete yet"])
    return figures_of(outcomes, paths, rules, config, decision)


def carry_out(action: Action, directory: Path, config: ServingConfig) -> str:
    """Write the config that a decision asks for, and return what was done in one line.

    Raises ExperimentError if the store has changed since it was read, and BundleError if another
    process holds its lock.
    """
    if action == "wait":
        return f"{directory / SERVING}: unchanged"
    active = config.canary if action == "promote" else config.active
    assert active is not None
    shadow = None if config.shadow == active else config.shadow
    after = dataclasses.replace(config, active=active, canary=None, share=0.0, shadow=shadow)
    with exclusive_config(directory):
        current = ServingConfig.read(directory)
        if current != config:
            raise ExperimentError(
                f"{directory / SERVING}: must be {config} as it was read, got {current}; look again"
            )
        after.write(directory)
    return f"{directory / SERVING}: {after}"
