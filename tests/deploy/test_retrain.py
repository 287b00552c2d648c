"""The manifests of retraining and experiments, and the commands that they start."""

import copy
import itertools
from pathlib import Path

import kubernetes_validate
import pytest
import tyro
import yaml

from model.__main__ import Command
from model.experiment.commands import Experiment
from model.experiment.rules import Rules
from model.retraining.commands import Retrain
from model.retraining.run import PUBLISHED, REJECTED

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes" / "retrain"
PROMETHEUS = ROOT / "deploy" / "prometheus"
JOBS = {"retrain": Retrain, "experiment": Experiment}


def read(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))


def parse(arguments):
    return tyro.cli(Command, args=arguments, config=(tyro.conf.FlagCreatePairsOff,))


@pytest.mark.parametrize("name", [*JOBS, "networkpolicy"])
def test_each_manifest_follows_the_schema_of_the_api(name):
    kubernetes_validate.validate(read(name), "1.37", strict=True)


def test_a_misspelt_field_is_refused():
    manifest = copy.deepcopy(read("retrain"))
    manifest["spec"]["concurencyPolicy"] = "Forbid"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, "1.37", strict=True)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_starts_its_command_with_options_that_exist(name):
    job = read(name)["spec"]["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert isinstance(parse(container["args"]), JOBS[name])
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"] == name
    assert REJECTED in rule["onExitCodes"]["values"]
    assert PUBLISHED not in rule["onExitCodes"]["values"]
    volumes = {volume["name"] for volume in job["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_a_nightly_run_finds_the_first_training_the_items_and_a_configuration_on_the_claim():
    job = read("retrain")["spec"]["jobTemplate"]["spec"]
    options = parse(job["template"]["spec"]["containers"][0]["args"])
    paths = [options.checkpoint, options.config, *itertools.chain(*options.items)]
    assert len(paths) == 3
    assert {path.parent for path in paths} == {Path("/loop")}
    page = (ROOT / "docs" / "retrain.md").read_text("utf-8")
    assert all(f"| `{path.name}" in page for path in paths)


def test_the_network_policy_selects_the_pods_of_both_jobs():
    labels = {
        read(name)["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"][
            "app.kubernetes.io/name"
        ]
        for name in JOBS
    }
    (expression,) = read("networkpolicy")["spec"]["podSelector"]["matchExpressions"]
    assert set(expression["values"]) == labels


def test_the_kustomization_lists_every_file():
    kustomization = read("kustomization")
    files = kustomization["configMapGenerator"][0]["files"]
    listed = [*kustomization["resources"], *files, "kustomization.yaml"]
    assert sorted(listed) == sorted(path.name for path in FOLDER.iterdir())


def test_the_rules_are_read_and_guard_both_rails():
    rules = Rules.read(FOLDER / "rules.yaml")
    assert rules.guards.degraded is not None
    assert rules.guards.slow is not None


def test_the_ray_job_starts_the_command_of_the_cron_job():
    job = yaml.safe_load((ROOT / "deploy" / "ray" / "retrain.yaml").read_text("utf-8"))
    words = job["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "model"]
    container = read("retrain")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert parse(words[3:]) == parse(container["args"])


def test_each_job_has_an_alert_and_a_section_in_the_operators_page():
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    anchors = {line.lstrip("# ").lower().replace(" ", "-") for line in page.splitlines()
               if line.startswith("#")}  # fmt: skip
    (group,) = yaml.safe_load((PROMETHEUS / "jobs.yml").read_text("utf-8"))["groups"]
    for name, rule in zip(JOBS, group["rules"], strict=True):
        assert f'cronjob="{read(name)["metadata"]["name"]}"' in rule["expr"]
        assert rule["annotations"]["runbook"].partition("#")[2] in anchors
