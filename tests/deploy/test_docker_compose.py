"""The compose file: docker-compose accepts it, and everything that it names exists."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from service.settings import Settings
from service.state.address import parse_address

ROOT = Path(__file__).parents[2]


@pytest.fixture
def compose():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose")
def test_docker_compose_accepts_the_file():
    run = subprocess.run(
        ["docker-compose", "config", "-q"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_every_mount_target_and_setting_of_the_compose_file_exists(compose):
    targets = {
        line.split(" AS ")[1].strip()
        for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines()
        if line.startswith("FROM")
    }
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (ROOT / source).exists(), source
        if "build" in service:
            assert service["build"]["target"] in targets
        for name in service.get("environment", {}):
            is_setting = name.removeprefix("RERANK_").lower() in Settings.model_fields
            assert is_setting or name.startswith(("GF_", "ORT_", "VALKEY_")), name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")


def test_a_service_starts_after_the_services_it_needs_are_healthy(compose):
    services = compose["services"]
    for name in ("prometheus", "grafana", "locust", "rerank-state"):
        for condition in services[name]["depends_on"].values():
            assert condition == {"condition": "service_healthy"}
    assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text("utf-8")
    assert "healthcheck" in services["prometheus"]
    assert "healthcheck" in services["valkey"]
    assert services["locust"]["profiles"] == ["load"]
    assert services["rerank-gpu"]["profiles"] == ["gpu"]


def test_the_store_of_the_profile_state_is_reached_by_its_service_alone(compose):
    services = compose["services"]
    assert services["valkey"]["profiles"] == services["rerank-state"]["profiles"] == ["state"]
    assert "ports" not in services["valkey"]
    assert services["valkey"]["networks"] == ["state"]
    assert compose["networks"]["state"] == {"internal": True}
    in_network = {name for name, each in services.items() if "state" in each.get("networks", ())}
    assert in_network == {"valkey", "rerank-state"}
    assert "valkey:/data" in services["valkey"]["volumes"]
    assert services["valkey"]["entrypoint"][-2:] == ["--dir", "/data"]


def test_the_password_of_the_store_comes_from_outside_the_compose_file(compose):
    variables = compose["services"]["valkey"]["environment"]
    assert variables["VALKEY_PASSWORD"] == "${VALKEY_PASSWORD:-}"
    text = compose["services"]["rerank-state"]["environment"]["RERANK_STATE"]
    address = parse_address(text.replace("${VALKEY_PASSWORD:-}", "hex0"))
    assert (address.host, address.port, address.password) == ("valkey", 6379, "hex0")
    assert ".env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert ".env" in (ROOT / ".dockerignore").read_text("utf-8").splitlines()


def test_the_container_has_longer_to_stop_than_the_service_takes(compose):
    service = compose["services"]["rerank"]
    settings = Settings(
        **{
            name.removeprefix("RERANK_").lower(): value
            for name, value in service["environment"].items()
            if name.startswith("RERANK_")
        }
    )
    grace = float(service["stop_grace_period"].rstrip("s"))
    assert grace > settings.drain_s + settings.shutdown_s


def test_grafana_finds_its_data_source_and_dashboard():
    grafana = ROOT / "deploy" / "grafana"
    sources = yaml.safe_load((grafana / "provisioning/datasources/prometheus.yml").read_text())
    uid = sources["datasources"][0]["uid"]
    dashboard = json.loads((grafana / "dashboards/rerank.json").read_text("utf-8"))
    uids = [p["datasource"]["uid"] for p in dashboard["panels"] if "datasource" in p]
    assert set(uids) == {uid}
    assert len(uids) > 15
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
