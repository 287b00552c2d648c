"""The manifests against the API's schemas and the settings of the service."""

import copy
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes" / "base"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
CUSTOM = {"kustomization.yaml", "servicemonitor.yaml"}  # kinds that the API itself does not know


def read(name):
    return yaml.safe_load((FOLDER / name).read_text("utf-8"))


@pytest.fixture
def deployment():
    return read("deployment.yaml")


def pod(deployment):
    return deployment["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", [name for name in FILES if name not in CUSTOM])
def test_each_manifest_follows_the_schema_of_the_api(name):
    kubernetes_validate.validate(read(name), "1.37", strict=True)


def test_a_misspelt_field_is_refused(deployment):
    pod(deployment)["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.37", strict=True)


def test_the_kustomization_lists_every_file():
    assert sorted([*read("kustomization.yaml")["resources"], "kustomization.yaml"]) == FILES


def test_names_selectors_and_ports_of_the_manifests_agree(deployment):
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        read("service.yaml")["spec"]["selector"],
        read("pdb.yaml")["spec"]["selector"]["matchLabels"],
        read("networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"],
        read("servicemonitor.yaml")["spec"]["selector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    ports = [port["name"] for port in pod(deployment)["containers"][0]["ports"]]
    assert ports == ["http"] == [read("service.yaml")["spec"]["ports"][0]["targetPort"]]
    target = read("hpa.yaml")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert {read(n)["metadata"]["namespace"] for n in FILES if n not in
            ("kustomization.yaml", "namespace.yaml")} == {"rerank"}  # fmt: skip


def test_pods_have_probes_and_limits_and_run_as_user_65532(deployment):
    spec = pod(deployment)
    (container,) = spec["containers"]
    paths = {
        name: container[f"{name}Probe"]["httpGet"]["path"]
        for name in ("startup", "readiness", "liveness")
    }
    assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
    for kind in ("cpu", "memory"):
        assert container["resources"]["limits"][kind]
        assert container["resources"]["requests"][kind]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] == 65532  # the image's
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert "65532" in (ROOT / "Dockerfile").read_text("utf-8")


def test_pods_get_no_service_links_and_an_explicit_port(deployment):
    spec = pod(deployment)
    assert spec["enableServiceLinks"] is False
    (container,) = spec["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    (port,) = container["ports"]
    assert variables["RERANK_PORT"] == str(port["containerPort"])


def grace_left(deployment, settings):
    """Return the seconds of a pod's grace period beyond pause, drain and shutdown."""
    spec = pod(deployment)
    command = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    pause = float(command[-1].partition("sleep(")[2].rstrip(")"))
    return spec["terminationGracePeriodSeconds"] - pause - settings.drain_s - settings.shutdown_s


def test_a_pod_has_longer_to_end_than_the_service_takes(deployment):
    variables = {
        k.removeprefix("RERANK_").lower(): v for k, v in read("configmap.yaml")["data"].items()
    }
    settings = Settings(**variables)
    assert grace_left(deployment, settings) >= 5
    short = copy.deepcopy(deployment)
    pod(short)["terminationGracePeriodSeconds"] = 20
    assert grace_left(short, settings) < 0


def test_the_config_map_has_only_settings_of_the_service():
    names = {f"RERANK_{name.upper()}" for name in Settings.model_fields}
    assert set(read("configmap.yaml")["data"]) <= names
