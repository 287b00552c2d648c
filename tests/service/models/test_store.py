"""Serving configs of a store, canary shares, and changed bytes of a bundle."""

import random

import pytest

from service.engine.contract import BundleError, Manifest
from service.models import store
from service.models.store import LOCK, ServingConfig, exclusive_config, in_canary
from service.models.versions import scan_model
from tests.support.stores import copy_bundle, served_version, store_server


def config_text(canary=None, shadow=None, active='"2"'):
    entries = [f'"active": {active}']
    entries += [] if canary is None else [f'"canary": {canary}']
    entries += [] if shadow is None else [f'"shadow": {shadow}']
    return "{" + ", ".join(entries) + "}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        (b"\xff{}", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", r"body: .* dictionary.*, got \[\]"),
        ("null", "body: .*, got None"),
        ("{}", r"active: Field required, got \{\}"),
        (config_text(active="2"), "active: .* string, got 2"),
        (config_text(active='"../2"'), "active: .* pattern .*, got '../2'"),
        (config_text(active='""'), "active: .* pattern .*, got ''"),
        (config_text(active=r'"2\n"'), r"active: .* pattern .*, got '2\\n'"),
        (config_text(active='"%s"' % ("2" * 65)), "active: .* pattern .*, got '222.*"),
        (config_text(shadow='""'), "shadow: .* pattern"),
        (config_text(shadow="3"), "shadow: .* string, got 3"),
        ('{"active": "2", "extra": 1}', "extra: Extra inputs are not permitted, got 1"),
        (config_text(canary='"3"'), "canary: .*, got '3'"),
        (config_text(canary='{"version": "3"}'), r"canary\.share: Field required"),
        (config_text(canary='{"share": 0.5}'), r"canary\.version: Field required"),
        (
            config_text(canary='{"version": "3", "share": 1.5}'),
            r"canary\.share: .* equal to 1, got 1\.5",
        ),
        (
            config_text(canary='{"version": "3", "share": -0.1}'),
            r"canary\.share: .* equal to 0, got -0",
        ),
        (config_text(canary='{"version": "3", "share": NaN}'), r"canary\.share: .* got nan"),
        (config_text(canary='{"version": "3", "share": "0.1"}'), r"canary\.share: .* got '0\.1'"),
        (config_text(canary='{"version": "3", "share": true}'), r"canary\.share: .* got True"),
        (config_text(canary='{"version": "3", "share": 1, "x": 0}'), r"canary\.x: Extra inputs"),
    ],
)
def test_an_invalid_serving_json_is_refused_naming_field_rule_and_value(tmp_path, text, message):
    path = tmp_path / "serving.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BundleError, match=message) as caught:
        ServingConfig.read(tmp_path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 250


def test_a_config_reads_back_and_without_one_the_highest_version_is_active(store):
    for number in ("9", "10"):
        copy_bundle(store, "ranklens", number)
    directory = store / "ranklens"
    assert scan_model(directory).versions == ["1", "9", "10"]
    assert ServingConfig.read(directory) == ServingConfig("10")
    for config in (
        ServingConfig("1", "9", 0.25, "10"),
        ServingConfig("9"),
        ServingConfig("1", shadow="1"),
    ):
        config.write(directory)
        assert ServingConfig.read(directory) == config
    (directory / "serving.json").unlink()
    with store_server(store) as (client, _):
        assert served_version(client) == "10"


def test_users_of_a_canary_stay_in_it_as_its_share_grows():
    draw = random.Random(0)
    for number in range(2000):
        shares = sorted(draw.random() for _ in range(4))
        inside = [in_canary("m", f"u{number}", share) for share in (0.0, *shares, 1.0)]
        assert inside == sorted(inside)
        assert (inside[0], inside[-1]) == (False, True)
    for share in (0.1, 0.3, 0.8):
        count = sum(in_canary("m", f"u{i}", share) for i in range(4000))
        assert count == pytest.approx(4000 * share, abs=120)
    both = sum(in_canary("m", f"u{i}", 0.3) and in_canary("n", f"u{i}", 0.3) for i in range(4000))
    assert both == pytest.approx(360, abs=90)  # each model's canary has other users


def test_a_bundle_with_a_flipped_bit_or_a_missing_byte_is_refused(store):
    draw = random.Random(0)
    directory = store / "ranklens" / "1"
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        places = {0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(6))}
        for place in places:
            broken = bytearray(content)
            broken[place] ^= 1 << draw.randrange(8)
            path.write_bytes(bytes(broken))
            with pytest.raises(BundleError, match=r"manifest\.json|" + path.name):
                Manifest.read(directory).verify_files(directory)
        for cut in (content[:-1], content + b"\0", b""):
            path.write_bytes(cut)
            with pytest.raises(BundleError):
                Manifest.read(directory).verify_files(directory)
        path.unlink()
        with pytest.raises(BundleError):
            Manifest.read(directory).verify_files(directory)
        path.write_bytes(content)
    Manifest.read(directory).verify_files(directory)  # the whole bundle is accepted


def test_the_lock_of_a_config_has_one_holder_at_a_time_of_any_user(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LOCK_WAIT_S", 0.01)
    with (
        exclusive_config(tmp_path),
        pytest.raises(BundleError, match=r"\.serving\.lock: held by another process for 0\.01 s"),
        exclusive_config(tmp_path),
    ):
        pass
    with exclusive_config(tmp_path):
        assert (tmp_path / LOCK).stat().st_mode & 0o666 == 0o666
