"""A training that was killed goes on to the last bit; parts, clipping and early ends do what they say."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.core import devices
from tasks.core.training import Loop, Progress, Recipe, Trained, _batches, _judged, epochs, train
from tasks.core.workloads import losses
from tasks.tune.checkpoints import Running

PLAIN = Recipe(0.01, 0.01, 4, 32, None)
RECIPES = {
    "float32": PLAIN,
    "bfloat16": replace(PLAIN, dtype=torch.bfloat16),
    "float16": replace(PLAIN, dtype=torch.float16),
    "clipped in parts": replace(PLAIN, clip=0.1, parts=4),
}
ROWS = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
LABELS = (ROWS[:, 0] * ROWS[:, 1] > 0).long()


class Killed(BaseException):
    """Stands for SIGKILL."""


class Memory:
    """Keeps every epoch."""

    def __init__(self) -> None:
        self.kept: Progress | None = None

    def load(self) -> Progress | None:
        return self.kept

    def save(self, scores: tuple[float, ...], tensors: Callable[[], Mapping[str, Tensor]]) -> None:
        self.kept = Progress(scores, tensors())


def network(dropout: float = 0.3) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 2))


def images() -> nn.Module:
    """Weights of convolutions do not lie in memory in the order of their axes."""
    torch.manual_seed(3)
    pixels = nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(pixels, nn.Flatten(), nn.Linear(32, 2)).to(memory_format=torch.channels_last)


def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])


def evaluate(model: nn.Module) -> float:
    with torch.no_grad():
        return -float(nn.functional.cross_entropy(model.eval()(ROWS), LABELS))


def run(
    recipe: Recipe,
    keeper: Memory | Running | None = None,
    end: int | None = None,
    build: Callable[[], nn.Module] = network,
) -> tuple[list[float], Trained]:
    """The scores and the end of a training, which dies after an epoch if ``end`` says so."""
    scores: list[float] = []
    running = epochs(build(), recipe, (ROWS, LABELS), loss, evaluate, 7, keeper)
    while True:
        try:
            epoch, score = next(running)
        except StopIteration as ended:
            return scores, ended.value
        scores.append(score)
        if epoch == end:
            raise Killed


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("end", [1, 3])
@pytest.mark.parametrize("build", [network, images])
def test_a_killed_training_goes_on_as_if_it_had_never_stopped(
    recipe: Recipe, end: int, build: Callable[[], nn.Module]
) -> None:
    scores, undisturbed = run(recipe, build=build)
    memory = Memory()
    with pytest.raises(Killed):
        run(recipe, memory, end, build)
    assert memory.kept is not None
    assert len(memory.kept.scores) == end
    again, resumed = run(recipe, memory, build=build)
    assert again == scores
    assert resumed.state.keys() == undisturbed.state.keys()
    assert all(torch.equal(resumed.state[name], undisturbed.state[name]) for name in resumed.state)


def test_progress_is_kept_in_a_file_for_the_same_hyperparameters_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.tune.checkpoints._SHARE_OF_TIME", 1e9)  # keep every epoch, whatever it costs
    scores, _ = run(PLAIN)
    with pytest.raises(Killed):
        run(PLAIN, Running(tmp_path, 5, {"hidden": 16}), 2)
    assert Running(tmp_path, 5, {"hidden": 17}).load() is None
    assert Running(tmp_path, 6, {"hidden": 16}).load() is None
    kept = Running(tmp_path, 5, {"hidden": 16})
    found = kept.load()
    assert found is not None
    assert list(found.scores) == scores[:2]
    assert run(PLAIN, kept)[0] == scores
    kept.forget()
    assert not list(tmp_path.iterdir())


def test_progress_is_not_kept_more_often_than_it_is_worth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("tasks.tune.checkpoints.time.perf_counter", lambda: clock[0])
    taken: list[float] = []

    def tensors() -> dict[str, Tensor]:
        taken.append(clock[0])
        clock[0] += 1  # what keeping takes
        return {"weight": torch.zeros(1)}

    keeper = Running(tmp_path, 0, {})
    for _ in range(50):
        clock[0] += 10  # what an epoch takes
        keeper.save((0.5,), tensors)
    assert taken[0] == 10
    assert all(later - sooner >= 100 for sooner, later in itertools.pairwise(taken))
    assert len(taken) > 2


@pytest.mark.parametrize("weights_of_classes", [(), (0.4, 3.0)], ids=["alike", "weighted"])
def test_a_step_in_parts_is_the_same_step(weights_of_classes: tuple[float, ...]) -> None:
    def plain(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return losses.cross_entropy(model(batch[0]), batch[1], weights_of_classes, smoothing=0.1)

    def weights(parts: int) -> Tensor:
        torch.manual_seed(0)
        model = nn.Linear(8, 2)
        train(model, replace(PLAIN, parts=parts), (ROWS, LABELS), plain, lambda _: 0.0, 7, lambda *_: None)
        return model.weight.detach()

    assert torch.allclose(weights(1), weights(5), atol=1e-5), "also where the parts are not equally long"


def test_a_balanced_loss_is_as_large_as_a_plain_one() -> None:
    logits = torch.zeros(len(LABELS), 2)
    weights = losses.balanced_weights(LABELS.numpy(), 2)
    assert weights[0] != weights[1]
    assert float(losses.cross_entropy(logits, LABELS, weights)) == pytest.approx(math.log(2))


def test_clipping_limits_the_norm_of_the_gradient() -> None:
    def norm(clip: float | None) -> float:
        model = network(dropout=0.0)
        loop = Loop(model, replace(PLAIN, clip=clip), loss, 10)
        loop.step((ROWS[:32], LABELS[:32]))
        return float(torch.stack([value.grad.norm() for value in model.parameters() if value.grad is not None]).norm())

    assert norm(None) > 0.05
    assert norm(0.05) == pytest.approx(0.05, rel=1e-3)


def test_two_trainings_in_one_process_do_not_disturb_each_other() -> None:
    alone = run(PLAIN)[0]
    one, other = (epochs(network(), PLAIN, (ROWS, LABELS), loss, evaluate, 7) for _ in range(2))
    scores = [(next(one)[1], next(other)[1]) for _ in range(PLAIN.epochs)]
    assert scores == [(score, score) for score in alone]


def test_the_averaged_weights_follow_the_steps_faster_at_first() -> None:
    model = nn.Linear(8, 2)
    loop = Loop(model, PLAIN, loss, 30)
    expected = torch.zeros_like(model.weight)
    for step in range(30):
        loop.step((ROWS[:32], LABELS[:32]))
        decay = 0.0 if step == 0 else min(0.99, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    assert torch.allclose(loop.average.weight, expected, atol=1e-6)


def test_a_buffer_that_a_network_makes_anew_is_averaged() -> None:
    class Counting(nn.Module):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layers = smooth()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, rows: Tensor) -> Tensor:
            self.seen = self.seen + 1
            answers: Tensor = self.layers(rows)
            return answers

    assert run(PLAIN, build=Counting)[1].state["seen"] > 1


def test_running_statistics_are_averaged_and_whole_numbers_are_not() -> None:
    model = network()
    model.register_buffer("codes", torch.arange(100))
    loop = Loop(model, PLAIN, loss, 30)
    expected = torch.zeros(16)
    for step in range(30):
        loop.step((ROWS[:32], LABELS[:32]))
        decay = 0.0 if step == 0 else (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay) * model.state_dict()["1.running_mean"]
    averages = loop.average.state_dict()
    assert torch.allclose(averages["1.running_mean"], expected, atol=1e-6)
    assert averages["codes"].equal(torch.arange(100))
    assert int(averages["1.num_batches_tracked"]) == 30


class Unread(TorchDispatchMode):
    """Fails where a tensor's value is read, for which a GPU would have to be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_step_reads_nothing_from_the_device(recipe: Recipe) -> None:
    loop = Loop(network(), recipe, loss, 10)
    with Unread():
        for _ in range(3):
            loop.step((ROWS[:32], LABELS[:32]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_does_not_wait_for_the_gpu() -> None:
    loop = Loop(network().cuda(), PLAIN, loss, 10)
    rows = (ROWS[:32].cuda(), LABELS[:32].cuda())
    loop.step(rows)  # the first one sets up
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop.step(rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("scores", "agreed"), [((0.5, 0.7), 0.5), ((0.5, math.nan), math.nan), ((math.nan, 0.7), math.nan)]
)
def test_processes_that_train_together_go_by_one_figure(
    monkeypatch: pytest.MonkeyPatch, scores: tuple[float, float], agreed: float
) -> None:
    def gather(found: list[Tensor], own: Tensor) -> None:
        assert float(own) == pytest.approx(scores[1], nan_ok=True)
        for place, score in zip(found, scores, strict=True):
            place.fill_(score)

    def judge(model: nn.Module) -> float:
        if math.isnan(scores[1]):
            raise FloatingPointError("the network's answers are not finite")
        return scores[1]

    monkeypatch.setattr(torch.distributed, "all_gather", gather)
    assert _judged(judge, network(), 2) == pytest.approx(agreed, nan_ok=True)


def test_an_epoch_that_is_enough_is_the_last_one() -> None:
    running = epochs(network(), PLAIN, (ROWS, LABELS), loss, evaluate, 7)
    epoch, score = next(running)
    with pytest.raises(StopIteration) as ended:
        running.send(True)
    assert (epoch, ended.value.value.score) == (1, score)


def test_where_nothing_can_be_compiled_it_is_told_and_the_training_is_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "no_compiler", lambda device: "there is no compiler")
    plain, _ = run(PLAIN)
    with caplog.at_level("WARNING", "assay"):
        assert run(replace(PLAIN, compiled=True))[0] == plain
    assert "there is no compiler" in caplog.text


def test_what_is_compiled_is_the_training_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler that counts instead of compiling: the averaged network is scored as it is."""
    calls: list[torch.Size] = []

    def count(module: nn.Module, **how: object) -> None:
        def compiled(rows: Tensor) -> Tensor:
            calls.append(rows.shape)
            return module.forward(rows)

        module._compiled_call_impl = compiled

    monkeypatch.setattr(devices, "no_compiler", lambda device: None)
    monkeypatch.setattr(nn.Module, "compile", count)
    plain = run(PLAIN)
    compiled = run(replace(PLAIN, compiled=True))
    assert calls
    assert compiled[0] == plain[0]
    assert compiled[1].state.keys() == plain[1].state.keys()


def smooth() -> nn.Module:
    """Neither batch norm, which sees a process's own rows, nor dropout, which each draws for these."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


_A_MINUTE = timedelta(minutes=1)


def one_of_two(rank: int, meeting: Path) -> tuple[list[float], dict[str, list[Any]]]:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=_A_MINUTE)
    scores, trained = run(replace(PLAIN, together=2, clip=0.5), build=smooth)
    dist.destroy_process_group()
    return scores, {name: value.tolist() for name, value in trained.state.items()}


def test_two_processes_have_the_curve_and_the_weights_of_one(tmp_path: Path) -> None:
    scores, trained = run(replace(PLAIN, clip=0.5), build=smooth)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        both = [pool.submit(one_of_two, rank, tmp_path / "meeting") for rank in range(2)]
        (curve, state), other = (member.result(timeout=100) for member in both)
    assert other == (curve, state)
    assert curve == pytest.approx(scores, abs=1e-5)
    assert all(torch.allclose(torch.tensor(state[name]), value, atol=1e-5) for name, value in trained.state.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_rows_are_sent_to_the_gpu_part_by_part() -> None:
    gpu = torch.device("cuda")
    torch.manual_seed(0)
    batches = list(_batches((ROWS, LABELS), 8, gpu))
    assert all(rows.is_cuda and labels.is_cuda for rows, labels in batches)
    torch.manual_seed(0)
    order = torch.randperm(len(ROWS))
    assert torch.equal(batches[0][0].cpu(), ROWS[order[:8]])
