"""What a store says, and that no byte of a bundle in it can change unseen."""

import random

import pytest

from service.engine.contract import BundleError, Manifest
from service.models.store import ServingConfig, in_canary, versions_of
from tests.support.stores import copy_bundle, served_version, store_server


def lined(canary=None, shadow=None, active='"2"'):
    entries = [f'"active": {active}']
    entries += [] if canary is None else [f'"canary": {canary}']
    entries += [] if shadow is None else [f'"shadow": {shadow}']
    return "{" + ", ".join(entries) + "}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "does not read"),
        ("", "does not read"),
        (b"\xff{}", "does not read"),
        ("[" * 100_000, "does not read"),
        ("[]", r"body: .* dictionary.*, got \[\]"),
        ("null", "body: .*, got None"),
        ("{}", r"active: Field required, got \{\}"),
        (lined(active="2"), "active: .* string, got 2"),
        (lined(active='"../2"'), "active: .* pattern .*, got '../2'"),
        (lined(active='""'), "active: .* pattern .*, got ''"),
        (lined(active=r'"2\n"'), r"active: .* pattern .*, got '2\\n'"),
        (lined(active='"%s"' % ("2" * 65)), "active: .* pattern .*, got '222.*"),
        (lined(shadow='""'), "shadow: .* pattern"),
        (lined(shadow="3"), "shadow: .* string, got 3"),
        ('{"active": "2", "extra": 1}', "extra: Extra inputs are not permitted, got 1"),
        (lined(canary='"3"'), "canary: .*, got '3'"),
        (lined(canary='{"version": "3"}'), r"canary\.share: Field required"),
        (lined(canary='{"share": 0.5}'), r"canary\.version: Field required"),
        (lined(canary='{"version": "3", "share": 1.5}'), r"canary\.share: .* equal to 1, got 1\.5"),
        (lined(canary='{"version": "3", "share": -0.1}'), r"canary\.share: .* equal to 0, got -0"),
        (lined(canary='{"version": "3", "share": NaN}'), r"canary\.share: .* got nan"),
        (lined(canary='{"version": "3", "share": "0.1"}'), r"canary\.share: .* got '0\.1'"),
        (lined(canary='{"version": "3", "share": true}'), r"canary\.share: .* got True"),
        (lined(canary='{"version": "3", "share": 1, "x": 0}'), r"canary\.x: Extra inputs"),
    ],
)
def test_what_is_served_is_refused_naming_field_rule_and_value(tmp_path, text, told):
    path = tmp_path / "serving.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BundleError, match=told) as caught:
        ServingConfig.read(tmp_path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 250


def test_what_is_written_reads_back_and_without_a_file_the_highest_version_is_served(store):
    for number in ("9", "10"):
        copy_bundle(store, "ranklens", number)
    directory = store / "ranklens"
    assert versions_of(directory) == ["1", "9", "10"]
    assert ServingConfig.read(directory) == ServingConfig("10")
    for serving in (
        ServingConfig("1", "9", 0.25, "10"),
        ServingConfig("9"),
        ServingConfig("1", shadow="1"),
    ):
        serving.write(directory)
        assert ServingConfig.read(directory) == serving
    (directory / "serving.json").unlink()
    with store_server(store) as (client, _):
        assert served_version(client) == "10"


def test_who_is_in_the_canary_at_a_share_is_in_at_every_larger_one():
    draw = random.Random(0)
    for number in range(2000):
        shares = sorted(draw.random() for _ in range(4))
        inside = [in_canary("m", f"u{number}", share) for share in (0.0, *shares, 1.0)]
        assert inside == sorted(inside)
        assert (inside[0], inside[-1]) == (False, True)
    for share in (0.1, 0.3, 0.8):
        found = sum(in_canary("m", f"u{i}", share) for i in range(4000))
        assert found == pytest.approx(4000 * share, abs=120)
    both = sum(in_canary("m", f"u{i}", 0.3) and in_canary("n", f"u{i}", 0.3) for i in range(4000))
    assert both == pytest.approx(360, abs=90)  # each model's canary has other users


def test_any_single_flipped_bit_of_a_bundle_is_refused(store):
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
    Manifest.read(directory).verify_files(directory)  # and whole it is taken
