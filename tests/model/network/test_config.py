"""A configuration is validated as a whole, and every error names field, rule and value."""

import json
from pathlib import Path

import pytest

from model.network.config import Config, ConfigError

CONFIGS = sorted((Path(__file__).parents[3] / "model" / "configs").glob("*.yaml"))
# As version 0.1.0 stored a configuration in checkpoint.json: integers where a float is meant, and
# without a field that was added later.
STORED = """{"seed": 3, "network": {"host": "gru", "width": 16, "heads": 4, "dropout": 0},
"evaluator_network": null, "evaluator": {"epochs": 5}, "grpo": {"kl": 0, "imitate": 1}}"""


def terms(**fields):
    return {"objectives": {"terms": [{"kind": "alpha_dcg", "by": "genres", "weight": 1} | fields]}}


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"grpo": {"groop": 8}}, r"grpo\.groop: unknown field; must be one of batch, clip, .*"),
        ({"groop": 8}, r"groop: unknown field; must be one of evaluator, .*"),
        ({"grpo": {"group": 1}}, r"grpo\.group: must be .* equal to 2, got 1"),
        ({"grpo": {"epochs": 0}}, r"grpo\.epochs: must be greater than 0, got 0"),
        ({"evaluator": {"batch": 8}}, r"evaluator\.epochs: required, but missing"),
        ({"network": {"width": 10}}, r"network\.width: must divide by heads \(4\), got 10"),
        ({"evaluator_network": {"heads": 0}}, r"evaluator_network\.heads: must .*, got 0"),
        ({"network": {"host": "lstm"}}, r"network\.host: must be one of .*gru.*, got 'lstm'"),
        ({"reasoning": {"budget": -1}}, r"reasoning\.budget: must be .*, got -1"),
        ({"reasoning": {"entropy_quantile": 1.5}}, r"reasoning\.entropy_quantile: .* 1, got 1.5"),
        ({"reasoning": {"update": "drop"}}, r"reasoning\.update: must be 'add' or .*, got 'drop'"),
        ({"reasoning": [3]}, r"reasoning: must be a mapping of fields, got \[3\]"),
        ({"slate_length": 0}, r"slate_length: must be greater than 0, got 0"),
        ({"selection": "auc"}, r"selection: must be 'ndcg@10', .*, got 'auc'"),
        (
            {"selection": "objective"},
            r"selection: must come with objectives, got 'objective' without them",
        ),
        ({"objectives": {"utility": 0}}, r"objectives\.terms: must have at least one .*, got none"),
        ({"objectives": {"utility": -1}}, r"objectives\.utility: must be .* to 0, got -1"),
        ({"objectives": {"terms": 3}}, r"objectives\.terms: must be .*, got 3"),
        (terms(kind="ild"), r"objectives\.terms\.0\.kind: must be 'alpha_dcg', .*, got 'ild'"),
        (terms(weight=0), r"objectives\.terms\.0\.weight: must be a finite .* than 0, got 0"),
        (terms(alpha=2), r"objectives\.terms\.0\.alpha: must be less .* to 1, got 2"),
        (terms(beta=1), r"objectives\.terms\.0\.beta: unknown field; must be one of alpha, by, .*"),
        (terms(kind="share"), r"objectives\.terms\.0\.value: required by share, but missing"),
        ({"search": {}}, r"search: must come with objectives, got a search without them"),
        (
            {"search": {"teacher": "oracle"}, **terms()},
            r"search\.teacher: must be 'greedy', 'beam' or 'exhaustive', got 'oracle'",
        ),
        (
            {"search": {"temperature": 0}, **terms()},
            r"search\.temperature: must be greater than 0, got 0",
        ),
        (
            terms(kind="coverage", kernel="jaccard"),
            r"objectives\.terms\.0\.kernel: must be absent from coverage, got 'jaccard'",
        ),
        ({"seed": 1.5}, r"seed: must be a valid integer.*, got 1\.5"),
        ([1], r"configuration: must be a mapping of fields, got \[1\]"),
    ],
)
def test_an_invalid_configuration_is_refused_with_field_rule_and_value(payload, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Config.from_json(payload)


def test_every_invalid_field_is_reported_at_once():
    with pytest.raises(ConfigError, match=r"grpo\.epochs: .*; grpo\.group: "):
        Config.from_json({"grpo": {"group": 1, "epochs": 0}})


def test_an_override_is_validated_like_the_file():
    assert Config().override(seed=7, budget=1).reasoning.budget == 1
    with pytest.raises(ConfigError, match=r"reasoning\.budget: .*, got -1"):
        Config().override(budget=-1)


def test_a_search_takes_the_place_of_grpo_or_comes_before_it():
    assert Config().stages == ("evaluator", "warm_start", "grpo")
    searching = Config.from_json({"search": {}, **terms()}).override(epochs=3)
    assert searching.stages == ("evaluator", "warm_start", "search")
    assert searching.search is not None
    assert searching.search.epochs == 3
    both = Config.from_json({"search": {"followed_by_grpo": True}, **terms()})
    assert both.stages == ("evaluator", "warm_start", "search", "grpo")


def test_a_stored_configuration_of_the_first_version_loads_with_defaults():
    config = Config.from_json(json.loads(STORED))
    assert (config.seed, config.network.host, config.grpo.imitate) == (3, "gru", 1.0)
    assert config.reasoning.training_gate == "same"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_committed_configuration_survives_the_checkpoint_json(path):
    config = Config.load(path)
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_an_error_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("grpo: {groop: 8}\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml: grpo\.groop"):
        Config.load(path)
