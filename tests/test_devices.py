"""Which device a run uses: the GPU that it names, also for graphs; never the CPU in the place of a requested GPU."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cuda_on_cpu import emulate
from small_study import single_step
from torch import Tensor, nn

from roundhouse.errors import RoundhouseError
from roundhouse.settings import Settings
from roundhouse.training import Run, fewest_parts
from roundhouse.training.execute import Attempt, Hooks, execute, prepare
from roundhouse.training.passes import Passes
from roundhouse.training.precision import choose_device
from roundhouse.training.reproducibility import exactness, global_states, restore_globals, tf32_use

CPU = torch.device("cpu")
SILENT = Hooks(lambda session: None, lambda session: None, lambda: None)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# ------------------------------------------------------------------------------------------------------- graphs


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5)]
    return nn.Sequential(*layers)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(12, 3, 4, 4, generator=generator), torch.randint(0, 5, (12,), generator=generator)


def computing(model: nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    def compute(images: Tensor, labels: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(images)
        loss = factor * F.cross_entropy(logits.float(), labels)
        return loss, torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])

    return compute


def trained(kind: str, precision: str, parts: int) -> tuple[list[Any], dict[str, Tensor]]:
    """Losses and metrics of some steps, and the state of the network after them. Under fp16, one step overflows."""
    model, step = network(), single_step(precision)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    passes = Passes(computing(model), [model], kind, parts)
    results: list[Any] = []
    for seed in range(6):
        factor = 1e36 if precision == "fp16" and seed == 2 else 1.0 + seed
        loss, metrics = passes(step, batch(seed), torch.tensor(factor))
        step.update(optimizer)
        results.append((loss.item(), metrics.tolist()))
    scaler = step._session.optimisation.scaler
    results.append(scaler.get_scale() if scaler else None)
    return results, model.state_dict()


@pytest.mark.parametrize(
    ("precision", "parts", "scale"), [("fp32", 1, None), ("fp32", 3, None), ("fp16", 1, 2.0**15), ("fp16", 3, 2.0**15)]
)
def test_replays_of_an_emulated_graph_train_as_eager_passes_do(
    monkeypatch: pytest.MonkeyPatch, precision: str, parts: int, scale: float | None
) -> None:
    eager = trained("eager", precision, parts)
    seen = emulate(monkeypatch)
    results, state = trained("graph", precision, parts)
    assert len(seen.graphs) == 1
    assert results == eager[0]
    assert results[-1] == scale
    for name, value in eager[1].items():
        assert torch.equal(value, state[name]), name


def test_a_graph_is_captured_on_the_device_of_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = emulate(monkeypatch, computes_on=1)
    trained("graph", "fp32", 1)
    assert seen.captured_on == [1]
    assert set(seen.streams) == {1}
    assert seen.current == 0, "as before the capture"


def test_a_graph_that_has_recorded_nothing_is_an_error_at_its_first_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch, computes_on=1)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())  # so the capture is on GPU 0
    with pytest.raises(
        RoundhouseError, match="the CUDA graph is empty: the capture on cpu has recorded no computation"
    ):
        trained("graph", "fp32", 1)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 0.0])
def test_a_graph_whose_first_loss_is_no_usual_number_is_not_an_empty_one(
    monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    emulate(monkeypatch)
    model = network()
    passes = Passes(computing(model), [model], "graph")
    losses = [passes(single_step(), batch(seed), torch.tensor(factor))[0].item() for seed in range(2)]
    assert str(losses) == str([0.0 if factor == 0 else factor] * 2)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graph_survives_the_ends_of_epochs_with_their_checks_and_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    def study(run: Run) -> None:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        run.track(model=model, optimizer=optimizer)
        passes = Passes(computing(model), [model], kind)
        for epoch in run.epochs(3):
            for step, index in epoch.batches(range(4)):
                loss, _ = passes(step, batch(index), torch.tensor(1.0))
                step.watch(loss)
                step.update(optimizer)
        run.finish()

    hashes = {}
    for kind in ("eager", "graph"):
        if kind == "graph":
            emulate(monkeypatch)
        (tmp_path / kind).mkdir()
        settings = Settings(device="cpu", precision=precision)
        outcome = execute(study, settings, Attempt(tmp_path / kind), SILENT)
        hashes[kind] = outcome.reason, outcome.final_hash
    assert hashes["graph"] == hashes["eager"]
    assert hashes["graph"][0] == "completed"


# ------------------------------------------------------------------------------------------------------- devices


def gpus(monkeypatch: pytest.MonkeyPatch, count: int = 2) -> list[Any]:
    """PyTorch finds so many GPUs; returns what becomes the current one."""
    chosen: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_the_gpu_that_the_config_names_is_the_current_one_before_a_study_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = gpus(monkeypatch)
    assert prepare(Settings(device="cuda:1")).device == torch.device("cuda:1")
    assert chosen == [torch.device("cuda:1")]
    prepare(Settings(device="cpu"))
    assert prepare(Settings(ngpus=1)).device == torch.device("cuda"), "the current one, which is the first"
    assert len(chosen) == 1


def no_gpu(monkeypatch: pytest.MonkeyPatch, reason: str, cuda: str | None = "13.0", hip: str | None = None) -> None:
    def fail() -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fail)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver"


@pytest.mark.parametrize(
    ("build", "visible", "message"),
    [
        ({"cuda": None}, None, "is built for CPUs only: install a build with CUDA. "),
        ({"cuda": None, "hip": "6.4"}, None, "is built for AMD GPUs: install a build with CUDA. "),
        (
            {},
            None,
            "can use none: Found no NVIDIA driver on your system. Please check .* installed a driver. Check what ",
        ),
        ({}, "", "can use none with CUDA_VISIBLE_DEVICES='': Found no "),
    ],
)
def test_a_job_that_requested_a_gpu_never_trains_on_the_cpu_unless_the_config_says_so(
    monkeypatch: pytest.MonkeyPatch, build: dict[str, Any], visible: str | None, message: str
) -> None:
    no_gpu(monkeypatch, NO_DRIVER, **build)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    start, end = r"the job requested 1 GPU \(ngpus\), but PyTorch \S+ ", "To train on the CPU, write device: cpu in "
    with pytest.raises(RoundhouseError, match=f"^{start}{message}.*{end}the config, or ngpus: 0 under resources$"):
        prepare(Settings(ngpus=1))
    with pytest.raises(RoundhouseError, match=rf"^device 'cuda:1' was requested, but PyTorch \S+ {message}"):
        choose_device("cuda:1", ngpus=2)
    assert prepare(Settings(ngpus=1, device="cpu")).device == CPU
    assert prepare(Settings(ngpus=0)).device == CPU


def test_a_gpu_without_kernels_is_an_error_also_for_a_job_that_requested_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_100"])
    with pytest.raises(RoundhouseError, match="has no kernels for Tesla V100"):
        choose_device("auto", ngpus=1)


@pytest.mark.parametrize(("count", "current"), [(3, 1), (1, 0), (5, 4)])
def test_a_resume_with_other_gpus_restores_the_random_numbers_of_the_one_that_is_used(
    monkeypatch: pytest.MonkeyPatch, count: int, current: int
) -> None:
    numbers = [torch.tensor([gpu], dtype=torch.uint8) for gpu in range(3)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda gpu: numbers[gpu])
    states = global_states()
    restored: dict[int, int] = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, gpu: restored.update({gpu: int(state)}))
    restore_globals(states)
    assert restored[current] == 1
    assert len(restored) == min(3, count)
    if count == 3:
        assert restored == {0: 0, 1: 1, 2: 2}


# ------------------------------------------------------------------------------------------------------- float32


@pytest.mark.parametrize(
    ("precision", "capability", "found"),
    [("fp32", (8, 0), "off"), ("fp32", (7, 0), None), ("bf16", (9, 0), None), ("fp16", (8, 6), None)],
)
def test_only_float32_runs_on_gpus_with_tf32_are_no_exact_continuation_of_older_ones(
    monkeypatch: pytest.MonkeyPatch, precision: str, capability: tuple[int, int], found: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    assert exactness(torch.device("cuda"), precision).get("tf32") == found


def test_float32_is_float32_in_convolutions_unless_a_study_allows_tf32() -> None:
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = True
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            prepare(Settings(device="cpu"))
        assert not torch.backends.cudnn.allow_tf32
        assert tf32_use((9, 0)) == "off"
        torch.backends.cudnn.allow_tf32 = True
        assert tf32_use((9, 0)) == "convolutions"
    finally:
        torch.backends.cudnn.allow_tf32 = before


# ------------------------------------------------------------------------------------------------------- memory


def test_the_memory_of_a_first_try_is_free_before_a_loss_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[nn.Module]] = []
    alive: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(sum(one() is not None for one in models)))

    def study(run: Run) -> None:
        model = nn.Linear(4, 2)
        models.append(weakref.ref(model))
        optimizer = torch.optim.Adam(model.parameters())
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(2):
            step.optimise(model(torch.ones(1, 4)).sum() * float("nan"), optimizer)
        run.finish()

    assert execute(study, Settings(device="cpu"), Attempt(tmp_path), SILENT).diverged
    assert len(models) == 2
    assert alive == [0]


def test_the_memory_of_parts_that_did_not_fit_is_free_before_the_next_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(sum(one() is not None for one in tensors)))

    def attempt(parts: int) -> None:
        activations = torch.zeros(10)
        tensors.append(weakref.ref(activations))
        if parts < 4:
            raise torch.OutOfMemoryError("2 GB free")

    assert fewest_parts([1, 2, 4], attempt) == 4
    assert alive == [0, 0]
