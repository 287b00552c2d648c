"""The state of a run keeps the JSON of version 0.1.0."""

from model.learning.state import RunState
from model.network.config import Config

KEYS = [
    "stage", "epoch", "saves", "lines", "best", "threshold", "share", "seconds", "positions",
    "data", "data_digest", "commit", "validation", "config",
]  # fmt: skip


def test_the_json_has_the_keys_of_the_first_version_in_their_order():
    state = RunState(config=Config(), positions=25)
    assert list(state.to_json()) == KEYS
    state.shared_seconds = 0.0
    assert list(state.to_json()) == [*KEYS, "shared_seconds"]


def test_a_state_survives_its_json():
    state = RunState(
        config=Config(seed=3), positions=25, threshold=1.5, validation={"final": {"steps": 2.0}}
    )
    assert RunState.from_json(state.to_json()) == state


def test_a_state_without_later_fields_loads_with_defaults():
    payload = RunState(config=Config(), positions=25, data_digest="abc").to_json()
    for name in ("data", "data_digest", "commit"):
        del payload[name]
    state = RunState.from_json(payload | {"tensors": "state-00001.safetensors"})
    assert (state.data, state.data_digest, state.commit) == ("", None, "unknown")
