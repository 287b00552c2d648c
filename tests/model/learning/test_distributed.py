"""Training with a world size of two, in bfloat16 or on CUDA differs only by rounding."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.learning import accelerator, checkpoint, distributed
from model.learning.accelerator import Accelerator, DeviceError
from model.learning.distributed import shard
from model.learning.grpo import grpo_loss
from model.learning.imitation import soft_loss
from model.learning.objectives import Objective
from model.learning.policy import Batch, Policy, evaluator_loss
from model.learning.teacher import TeacherFiles, teach
from model.learning.train import Run, train
from model.network.config import Config, ConfigError
from model.network.objectives_config import SearchConfig
from model.network.reasoning import Replay, follow
from model.study.click_model import prepare_simulation
from tests.support.ranks import run_ranks

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "model" / "configs" / "world.yaml"
ROWS = 30  # in the batch that two ranks share


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "data"
    prepare_simulation(out, 300, seed=0)
    return out


def without_dropout() -> Config:
    config = Config.load(CONFIG).smoke()
    return dataclasses.replace(config, network=dataclasses.replace(config.network, dropout=0.0))


def gradients(data, directory):
    """Return each loss of training and its gradients, on this rank's shard of a batch."""
    torch.set_num_threads(1)
    run = Run(without_dropout(), data, directory, None)
    # Sorted by likes, so that ranks have different denominators; the first half takes no step.
    rows = np.argsort(run.train.labels.sum(axis=1), kind="stable")[-ROWS:]
    batch = Batch(run.train, shard(rows))
    # Short lists are mostly on one rank, so that the numbers of positions differ too.
    ragged = Batch(run.train, shard(rows))
    ragged.mask = ragged.mask.clone()
    ragged.mask[torch.from_numpy(shard(np.arange(ROWS) < ROWS // 3)), 5:] = False
    order = torch.from_numpy(np.argsort(-run.train.labels[rows], axis=1)[:, :4].copy())
    order[: ROWS // 3, 2:] = -1
    order = torch.from_numpy(shard(order.numpy()))
    reasons = torch.from_numpy(shard(np.arange(ROWS) >= ROWS // 2))
    encoded = run.generator.encode(batch.numbers, batch.tokens, batch.mask)
    steps = reasons.view(-1, 1, 1).expand(-1, 4, 2)
    decoded = run.policy.decode(encoded, follow(order), Replay(steps))
    advantage = torch.from_numpy(shard(np.linspace(-2.0, 1.0, ROWS, dtype=np.float32)))
    before = decoded.logprob.detach() - 0.05
    logged = mock.patch.object(run.policy, "logged_order", return_value=order)
    replayed = mock.patch.object(run.policy, "decode", return_value=decoded)
    with logged, replayed:
        warm_start = run.policy.supervised_loss(batch, 2)
    losses = {
        "evaluator": (
            run.evaluator,
            evaluator_loss(run.evaluator, ragged, run.config.slate_length),
        ),
        "warm_start": (run.generator, warm_start),
        "grpo": (
            run.generator,
            grpo_loss(decoded.logprob, before, before, advantage, order >= 0, 0.2, 0.01),
        ),
    }
    gains = torch.rand(ROWS, 4, batch.mask.shape[1], generator=torch.Generator().manual_seed(0))
    gains = gains[torch.from_numpy(shard(np.arange(ROWS)))]
    losses["search"] = run.generator, soft_loss(decoded.logits, gains, order >= 0, 0.5)
    table = torch.nn.Embedding(9, 2, sparse=True)
    torch.nn.init.ones_(table.weight)
    places = torch.from_numpy(shard(np.arange(ROWS - 1)))  # an odd number, so parts differ in size
    losses["table"] = table, (table(places % 7) * places[:, None]).sum()
    values = {}
    for name, (module, loss) in losses.items():
        module.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        distributed.all_reduce_gradients(module)
        values[f"{name} loss"] = distributed.all_reduce(loss.detach())
        for parameter, value in module.named_parameters():
            if value.grad is not None:
                values[f"{name} {parameter}"] = value.grad.to_dense().clone()
    values["teacher slates"] = taught(run, directory)
    return values


def taught(run, directory):
    """Return the slates of a teacher whose search the ranks share, and check its files."""
    objective = Objective(with_objectives(), run.featuriser, run.evaluator.eval())
    lists, device = run.train.take(np.arange(50)), torch.device("cpu")
    with mock.patch("model.learning.teacher.LISTS_PER_FILE", 16):
        files = TeacherFiles(directory / "teacher", "digest")
        slates = teach(objective, SearchConfig(), lists, device, files).slates
    written = [*files.directory.iterdir()] if files.directory.exists() else []
    assert len(written) == (0 if distributed.rank() else 4)
    return slates.float()


def with_objectives() -> Config:
    objectives = {"utility": 1.0}
    payload = without_dropout().to_json() | {"objectives": objectives}
    return Config.from_json(json.loads(json.dumps(payload)))


def train_rank(rank, data, directory):
    """Save the gradients of one of two ranks, with all and with parts of the reduction."""
    patched = {
        "unpatched": (),
        "gradients_not_added": ("model.learning.distributed.all_reduce_gradients",),
        "local_denominators": (
            "model.learning.policy.all_reduce",
            "model.learning.grpo.all_reduce",
            "model.learning.imitation.all_reduce",
            "model.learning.train.all_reduce",
        ),
    }
    replacements = {"model.learning.distributed.all_reduce_gradients": lambda _module: None}
    with accelerator.open_accelerator("cpu"):
        for name, paths in patched.items():
            patches = [
                mock.patch(path, replacements.get(path, lambda value: 2 * value)) for path in paths
            ]
            for patch in patches:
                patch.start()
            values = gradients(data, directory / f"{name}-{rank}")
            for patch in patches:
                patch.stop()
            save_file(values, directory / f"{name}-{rank}.safetensors")


@pytest.fixture(scope="module")
def two_processes(world, tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    run_ranks(train_rank, world, directory)
    return directory


@pytest.fixture(scope="module")
def one(world, tmp_path_factory):
    return gradients(world, tmp_path_factory.mktemp("one"))


def maximum_differences(one, directory, name, rank=0):
    two = load_file(directory / f"{name}-{rank}.safetensors")
    assert one.keys() == two.keys()
    return {key: float((one[key] - two[key]).abs().max()) for key in one}


@pytest.mark.parametrize("rank", [0, 1])
def test_two_ranks_have_the_losses_and_gradients_of_one_process(one, two_processes, rank):
    assert "grpo reason_token.weight" in one
    assert max(maximum_differences(one, two_processes, "unpatched", rank).values()) < 1e-5


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("gradients_not_added", "table"),
        *itertools.product(
            ["gradients_not_added", "local_denominators"],
            ["evaluator", "warm_start", "search", "grpo"],
        ),
    ],
)
def test_without_part_of_the_reduction_gradients_differ(one, two_processes, name, loss):
    two = load_file(two_processes / f"{name}-0.safetensors")
    differences = [
        float((one[key] - two[key]).abs().max()) if key in two else 1.0
        for key in one
        if key.startswith(loss) and not key.endswith("loss")
    ]
    assert max(differences) > 1e-4


def torchrun(data, out):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               "-m", "model", "train", "--smoke", "--device", "cpu", "--config", str(CONFIG),
               "--data", str(data), "--out", str(out)]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def by_torchrun(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("torchrun")
    process = torchrun(world, out)
    printed, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return out, printed


def test_torchrun_trains_a_run_that_loads_in_one_process(world, by_torchrun):
    out, printed = by_torchrun
    trained = checkpoint.load(out)
    assert json.loads(printed[printed.index("{\n") :])["threshold"] == trained.threshold
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in lines] == [
        *["evaluator"], *["warm_start"] * 2, *["grpo"] * 2
    ]  # fmt: skip
    assert train(Config.load(CONFIG).smoke(), world, out).stage == "done"


def test_an_interrupted_torchrun_resumes_to_the_same_metrics(world, by_torchrun, tmp_path):
    process = torchrun(world, tmp_path)
    log = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) >= 2:
            break
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert "interrupted; run the same command again to go on" in errors
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # no process of the group is left
    again = torchrun(world, tmp_path)
    _, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert log.read_text() == (by_torchrun[0] / "metrics.jsonl").read_text()


def test_a_batch_smaller_than_the_world_size_is_refused(world, tmp_path, monkeypatch):
    monkeypatch.setattr("model.learning.stages.world_size", lambda: 9)
    with pytest.raises(ConfigError, match=r"grpo\.batch: .* each of 9 processes, got 8"):
        Run(Config.load(CONFIG).smoke(), world, tmp_path, None)


def test_a_parameter_without_gradient_on_any_rank_keeps_none():
    module = torch.nn.Linear(2, 1)
    distributed.all_reduce_gradients(module)
    assert module.weight.grad is None


def test_cuda_is_refused_where_torch_has_no_device(world, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    with pytest.raises(DeviceError, match="--device cuda"), accelerator.open_accelerator("cuda"):
        pass
    with accelerator.open_accelerator("auto") as place:
        assert place == Accelerator()


def test_bfloat16_trains_to_finite_float32_weights_and_whole_slates(world, tmp_path):
    with accelerator.open_accelerator("cpu", "bfloat16") as place:
        train(Config.load(CONFIG).smoke(), world, tmp_path, accelerator=place)
    _, tensors = checkpoint.read(tmp_path)
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    trained = checkpoint.load(tmp_path)
    lists = Run(trained.config, world, tmp_path / "other", None).valid
    (decoded,) = Policy(trained.config, trained.generator, trained.threshold).greedy_slates(
        lists, 2
    )
    assert all(len(set(row)) == 4 and min(row) >= 0 for row in decoded.slate.tolist())


def test_bfloat16_gradients_point_in_the_direction_of_float32(world, tmp_path):
    run = Run(without_dropout(), world, tmp_path, None)
    run.policy.threshold = -1.0
    batch = Batch(run.train, slice(64))
    gradients = []
    for precision in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        run.generator.zero_grad(set_to_none=True)
        with Accelerator(precision=precision).autocast():
            loss = run.policy.supervised_loss(batch, 2)
        loss.backward()
        gradients.append({n: p.grad for n, p in run.generator.named_parameters()})
    for name, exact in gradients[0].items():
        if exact is not None and exact.norm() > 1e-6:  # that of a key bias is rounding only
            rounded = gradients[1][name]
            assert rounded is not None
            assert torch.cosine_similarity(exact.ravel(), rounded.ravel(), dim=0) > 0.9, name


def test_logits_entropies_and_likes_are_float32_under_bfloat16(world, tmp_path):
    run = Run(without_dropout(), world, tmp_path, None)
    batch = Batch(run.train, slice(8))
    with Accelerator(precision=torch.bfloat16).autocast():
        encoded = run.generator.encode(batch.numbers, batch.tokens, batch.mask)
        choice = run.generator.begin(encoded)
        likes = run.evaluator(run.evaluator.embed(batch.numbers, batch.tokens), batch.mask)
    for values in (choice.logits, choice.entropy, likes):
        assert values.dtype == torch.float32
        assert not torch.equal(
            values, values.bfloat16().float()
        )  # nor were they rounded on the way


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cuda_trains_a_run_that_the_cpu_loads(world, tmp_path, precision):
    with accelerator.open_accelerator("cuda", precision) as place:
        train(Config.load(CONFIG).smoke(), world, tmp_path, accelerator=place)
    trained = checkpoint.load(tmp_path)
    assert trained.generator.start_token.device.type == "cpu"
    assert all(torch.isfinite(p).all() for p in trained.generator.parameters())
