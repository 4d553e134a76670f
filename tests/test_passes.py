"""The passes of one batch: eager, in parts, compiled, and as a CUDA graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_study import single_step
from torch import Tensor, nn

from roundhouse.errors import RoundhouseError
from roundhouse.training import fewest_parts, free_memory, readable
from roundhouse.training.memory import peak_memory
from roundhouse.training.passes import Compute, Graph, Passes, buffers_kept, clear_gradients, refuse_dropout

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def network(device: torch.device, norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), *([nn.BatchNorm2d(8)] if norm else []), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * 16, 5)).to(device)


def batch_on(device: torch.device, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(12, 3, 4, 4, generator=generator)
    return images.to(device), torch.randint(0, 5, (12,), generator=generator).to(device)


def computing(model: nn.Module) -> Compute:
    def compute(images: Tensor, labels: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(images)
        loss = factor * F.cross_entropy(logits.float(), labels)
        return loss, torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])

    return compute


def gradients(model: nn.Module) -> list[Tensor]:
    return [one.grad.clone() for one in model.parameters() if one.grad is not None]


def test_a_batch_in_parts_has_the_gradients_and_metrics_of_the_whole() -> None:
    model = network(CPU, norm=False)
    results = {}
    for parts in (1, 2, 3, 12):
        passes = Passes(computing(model), [model], "eager", parts)
        loss, metrics = passes(single_step(), batch_on(CPU), torch.tensor(2.0))
        results[parts] = [loss, metrics, *gradients(model)]
    for parts in (2, 3, 12):
        for mine, whole in zip(results[parts], results[1], strict=True):
            torch.testing.assert_close(mine, whole)


def test_compiled_passes_give_the_gradients_of_eager_ones_up_to_rounding() -> None:
    results = {}
    for kind in ("eager", "compile"):
        model = network(CPU)
        passes = Passes(computing(model), [model], kind)
        results[kind] = [*passes(single_step(), batch_on(CPU), torch.tensor(1.0)), *gradients(model)]
    for mine, eager in zip(results["compile"], results["eager"], strict=True):
        torch.testing.assert_close(mine, eager)


def test_gradients_of_one_step_do_not_leak_into_the_next() -> None:
    model = network(CPU)
    passes = Passes(computing(model), [model], "eager")
    first = None
    for _ in range(2):
        passes(single_step(), batch_on(CPU), torch.tensor(1.0))
        first = first or gradients(model)
    for mine, before in zip(gradients(model), first, strict=True):
        assert torch.equal(mine, before)


def test_running_statistics_are_restored_after_a_trial() -> None:
    model = network(CPU)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with buffers_kept([model]):
        model(batch_on(CPU)[0])
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_cleared_gradients_are_none() -> None:
    model = network(CPU)
    model(batch_on(CPU)[0]).sum().backward()
    clear_gradients([model])
    assert all(one.grad is None for one in model.parameters())


def test_active_dropout_is_refused_before_a_graph_is_captured() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    with pytest.raises(RoundhouseError, match=r"random numbers of dropout \(Sequential.1\): use `step: eager`"):
        refuse_dropout([network(CPU), model])
    refuse_dropout([model.eval(), nn.Dropout(0.0)])


def test_the_first_number_of_parts_that_does_not_run_out_of_memory_is_used() -> None:
    tried = []

    def attempt(parts: int) -> None:
        tried.append(parts)
        if parts < 4:
            raise torch.OutOfMemoryError(f"{parts} parts: 3 GB needed, 2 GB free")

    assert fewest_parts([1, 2, 4, 8], attempt) == 4
    assert tried == [1, 2, 4]
    with pytest.raises(RoundhouseError, match="does not fit into memory in 2 parts: 2 parts: 3 GB needed, 2 GB free"):
        fewest_parts([1, 2], attempt)
    with pytest.raises(RoundhouseError, match="does not fit into memory in one piece"):
        fewest_parts([1], attempt)


def test_free_and_peak_memory_are_found_and_printed_with_units() -> None:
    assert free_memory(CPU) > 0
    assert peak_memory(CPU) > 10_000_000
    assert [readable(size) for size in (12, 34_000, 512e6, 4.29e9)] == ["12 bytes", "34 kB", "512 MB", "4.29 GB"]


# On a GPU


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


def trained(kind: str, device: torch.device, precision: str, parts: int) -> tuple[list[Any], dict[str, Tensor]]:
    """Losses and metrics of some steps, and the state of the network after them."""
    model, step = network(device), single_step(precision, "cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    passes = Passes(computing(model), [model], kind, parts)
    results = []
    for seed in range(5):
        loss, metrics = passes(step, batch_on(device, seed), torch.tensor(1.0 + seed, device=device))
        step.update(optimizer)
        results.append((loss.item(), metrics.tolist()))
    return results, model.state_dict()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_graph_gives_bit_identical_results_to_eager_passes(gpu: torch.device, precision: str, parts: int) -> None:
    eager, graph = (trained(kind, gpu, precision, parts) for kind in ("eager", "graph"))
    assert graph[0] == eager[0]
    for name, value in eager[1].items():
        assert torch.equal(value, graph[1][name])


@pytest.mark.gpu
def test_a_graph_trains_on_another_gpu_than_the_current_one(gpu: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    second = torch.device("cuda:1")
    assert trained("graph", second, "fp32", 1)[0] == trained("eager", second, "fp32", 1)[0]


@pytest.mark.gpu
def test_a_graph_that_has_recorded_nothing_is_an_error(gpu: torch.device) -> None:
    weights, elsewhere = torch.ones(4, device=gpu), torch.cuda.Stream(gpu)  # type: ignore[no-untyped-call]

    def compute(values: Tensor) -> tuple[Tensor, Tensor]:
        with torch.cuda.stream(elsewhere):
            loss = (values * weights).sum()
            return loss, loss[None]

    torch.cuda.synchronize()
    with pytest.raises(RoundhouseError, match="the CUDA graph is empty"):
        Graph(compute, (torch.ones(4, device=gpu),), [])(torch.ones(4, device=gpu))


@pytest.mark.gpu
def test_capturing_a_graph_changes_neither_weights_nor_running_statistics(gpu: torch.device) -> None:
    model = network(gpu)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compute = computing(model)

    def passes(*given: Tensor) -> tuple[Tensor, Tensor]:
        loss, metrics = compute(*given)
        loss.backward()
        return loss.detach(), metrics

    Graph(passes, (*batch_on(gpu), torch.tensor(1.0, device=gpu)), [model])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
