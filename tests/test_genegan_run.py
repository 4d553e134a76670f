"""Whole runs of the GeneGAN study, tiny: results, kept files, boxes of time, and exact resume of all arms."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from genegan_tiny import ARMS, EXTRACTOR, JUDGE, TINY
from small_study import comparable, train, with_settings
from test_exact_resume import kill_and_resume, trainer

from roundhouse.training import StudyError, checkpoint
from roundhouse.training.execute import Attempt, Hooks, Outcome, Start, execute
from studies.genegan import classifier, extractors, players
from studies.genegan import train as train_module
from studies.genegan.evaluation import Evaluation
from studies.genegan.loading import LATEST, load_generator
from studies.genegan.networks import Generator
from studies.genegan.options import Options
from studies.genegan.start import start_from
from studies.genegan.train import train as train_genegan

__all__ = ["trainer"]  # a fixture


@pytest.fixture(autouse=True)
def small_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(extractors, "_SMALL", EXTRACTOR)
    monkeypatch.setattr(classifier, "_RECIPE", JUDGE)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def run(
    directory: Path,
    data: Path,
    earlier: tuple[Path, ...] = (),
    stop_at: int | None = None,
    inputs: dict[str, list[Path]] | None = None,
    settings: dict[str, Any] | None = None,
    stop: Callable[[], str | None] = lambda: None,
    **config: Any,
) -> Outcome:
    options = Options(**{**TINY, **config})
    study = lambda run: train_genegan(run, options, inputs or {}, data)  # noqa: E731
    outcome = train(directory, study, with_settings(seed=1, **(settings or {})), earlier, stop=stop, stop_at=stop_at)
    # whole checkpoints hold times
    artifacts = {name: one for name, one in outcome.artifacts.items() if not name.startswith("snapshots/")}
    return comparable(replace(outcome, artifacts=artifacts))


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_that_is_stopped_and_resumed_equals_one_never_stopped(tmp_path: Path, data: Path, arm: str) -> None:
    straight = run(tmp_path / "straight", data, **ARMS[arm])
    assert straight.finished
    earlier: list[Path] = []
    for stop_at in (1, 4):
        here = tmp_path / str(stop_at)
        stopped = run(here, data, tuple(earlier), stop_at, **ARMS[arm])
        assert not stopped.finished and stopped.exact
        earlier.append(here)
    assert run(tmp_path / "last", data, tuple(earlier), **ARMS[arm]) == straight


def test_a_run_that_is_killed_at_random_moments_equals_one_never_killed(trainer: Any, tmp_path: Path) -> None:
    kill_and_resume(trainer, "genegan wgan", 3, tmp_path)


def test_results_stand_beside_dummies_and_floor(tmp_path: Path, data: Path) -> None:
    metrics = run(tmp_path / "run", data, evaluation_images=40).metrics
    for way in ("add", "remove"):
        of_distance = {f"test_{way}_{name}" for name in ("fd", "kd", "fd_low", "fd_high", "fd_floor", "fd_identity")}
        of_transfer = {
            f"test_{way}_{name}" for name in ("rate", "inside", "inside_identity", "inside_paste", "outside")
        }
        assert of_distance | of_transfer <= set(metrics)
    assert {"test_distance", "test_reconstruction_outside", "test_judge_accuracy"} <= set(metrics)
    with np.load(tmp_path / "run/outputs.npz") as arrays:
        assert arrays["samples"].shape == (8, 6, 3, 32, 32) and arrays["samples"].dtype == np.uint8


def test_the_newest_checkpoints_and_all_samples_are_kept_and_a_file_names_the_newest(
    tmp_path: Path, data: Path
) -> None:
    run(tmp_path, data, iterations=7, save_every=2, keep=2)
    assert names(tmp_path / "snapshots") == ["iter_000006.pth", "iter_000007.pth"]
    assert names(tmp_path / "kept/samples") == [f"iter_00000{n}.png" for n in (2, 4, 6, 7)]
    assert (tmp_path / "kept" / LATEST).read_text() == "iter_000007.pth\n"
    assert load_generator(tmp_path, torch.device("cpu")).step == 7
    with pytest.raises(StudyError, match="has no kept checkpoint"):
        load_generator(data, torch.device("cpu"))


def test_checkpoints_of_earlier_attempts_are_pruned_too(tmp_path: Path, data: Path) -> None:
    folders: list[Path] = []
    for stop_at in (3, 5, None):
        here = tmp_path / str(stop_at)
        run(here, data, tuple(folders), stop_at, iterations=6, save_every=1, keep=2)
        folders.append(here)
    left = {name for folder in folders if (folder / "snapshots").is_dir() for name in names(folder / "snapshots")}
    assert left == {"iter_000005.pth", "iter_000006.pth"}


def test_a_checkpoint_has_the_config_of_its_own_run_also_after_a_start_from_another(tmp_path: Path, data: Path) -> None:
    run(tmp_path / "source", data)
    (directory := tmp_path / "longer").mkdir()
    attempt = Attempt(directory, start=Start(tmp_path / "source/checkpoint.pth", keeps_position=True))
    options = Options(**{**TINY, "iterations": 8, "l2": 0.5})
    hooks = Hooks(lambda _: None, lambda _: None, lambda: None)
    outcome = execute(lambda run: train_genegan(run, options, {}, data), with_settings(seed=1), attempt, hooks)
    found = load_generator(directory, torch.device("cpu"))
    assert outcome.finished and (found.step, found.options) == (8, options)


def test_a_run_says_how_it_was_evaluated_whatever_is_installed_when_it_resumes(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not run(tmp_path / "1", data, stop_at=2, extractor="auto").finished
    monkeypatch.setattr(train_module, "chosen", lambda *_: "inception")
    assert run(tmp_path / "2", data, (tmp_path / "1",), extractor="auto").finished
    facts = json.loads((tmp_path / "2/kept/evaluation.json").read_text())
    assert facts["extractor"] == "small" and facts["distance"] == "FD (small)"
    assert (facts["size"], facts["images"], facts["split"]) == (32, 20, "validation")


def test_the_last_checkpoint_whose_losses_are_sound_is_kept_beside_the_newest(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, real = count(1), players.generator_loss

    def exploding(*arguments: Any) -> dict[str, torch.Tensor]:
        found = real(*arguments)
        return {**found, "loss": found["loss"] * (1e6 if next(steps) > 3 else 1)}

    monkeypatch.setattr(players, "generator_loss", exploding)
    run(tmp_path, data, iterations=8, save_every=1, log_every=1, keep=2)
    assert names(tmp_path / "snapshots") == ["iter_000003.pth", "iter_000007.pth", "iter_000008.pth"]


def test_a_box_ends_within_an_iteration_and_its_last_iteration_is_evaluated_and_kept(
    tmp_path: Path, data: Path
) -> None:
    began = time.monotonic()
    boxed = run(tmp_path / "box", data, iterations=10**6, save_every=10**5, settings={"time_limit": 1.0})
    assert boxed.finished and time.monotonic() - began < 60
    (kept,) = names(tmp_path / "box/snapshots")
    content = checkpoint.read_whole(tmp_path / "box/snapshots" / kept)
    rows = [row for row in content["history"] if "distance" in row]
    assert len(rows) == 1 and rows[0]["step"] == content["step"] == int(kept[5:11])
    assert content["seconds"] >= 1.0
    last = content["step"] - 1
    again = run(tmp_path / "steps", data, iterations=last + 1, save_every=10**5)
    assert again.metrics == boxed.metrics  # the box only chose the iteration


def test_a_generator_starts_from_the_vqvae_of_a_group(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "vqvae", data, method="vqvae")
    capsys.readouterr()
    plain = run(tmp_path / "plain", data)
    started = run(tmp_path / "init", data, inputs={"vqvae": [tmp_path / "vqvae"]}, init="vqvae")
    assert "weights of" in capsys.readouterr().out
    assert started.metrics != plain.metrics
    file = run(tmp_path / "file", data, init=str(tmp_path / "vqvae/best.pth"))
    assert file.metrics == started.metrics
    stopped = run(tmp_path / "1", data, stop_at=2, inputs={"vqvae": [tmp_path / "vqvae"]}, init="vqvae")
    assert not stopped.finished
    resumed = run(tmp_path / "2", data, (tmp_path / "1",), inputs={"vqvae": [tmp_path / "vqvae"]}, init="vqvae")
    assert resumed == started


def test_a_generator_starts_from_a_file_of_another_project_by_a_mapping(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, mapping = tmp_path / "vqvae.pt", tmp_path / "map.json"
    first = torch.full((4, 3, 4, 4), 0.01)
    torch.save({"step": 5, "model": {"enc": {"0.weight": first}, "other": torch.ones(1)}}, file)
    mapping.write_text(json.dumps({"model.enc.0.weight": "splitter.stages.0.convolution.weight"}))
    generator = Generator(Options(**TINY))
    options = Options(**TINY, init=str(file), init_map=str(mapping))
    report = start_from(generator, str(file), options, {})
    assert torch.equal(generator.state_dict()["splitter.stages.0.convolution.weight"], first)
    assert "loaded (1): splitter.stages.0.convolution.weight" in report and "not used (1): model.other" in report
    assert report in capsys.readouterr().out
    with pytest.raises(StudyError, match="none of the 2 names of the weights"):
        start_from(generator, str(file), Options(**TINY, init=str(file)), {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read by PyTorch"),
        (b"PK no weights", "cannot be read by PyTorch"),
        (Path("an object"), "Save only tensors"),
        ({"step": 5}, "has no tensors"),
        (None, "cannot be read: No such file"),
    ],
    ids=["empty", "other", "object", "without tensors", "missing"],
)
def test_a_file_without_weights_is_one_error(tmp_path: Path, content: object, message: str) -> None:
    file = tmp_path / "vqvae.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(StudyError, match=message):
        start_from(Generator(Options(**TINY)), str(file), Options(**TINY, init=str(file)), {})


def test_a_group_that_is_no_input_is_reported(tmp_path: Path, data: Path) -> None:
    with pytest.raises(StudyError, match="gives 0 experiments of this group: it must give one"):
        run(tmp_path / "run", data, init="vqvae")


def test_a_stop_that_is_requested_while_sampling_loses_nothing(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = run(tmp_path / "straight", data)
    real, asked = Evaluation.samples, []

    def samples(self: Evaluation, *arguments: Any) -> torch.Tensor:
        asked.append("SIGUSR2")
        return real(self, *arguments)

    with monkeypatch.context() as during:
        during.setattr(Evaluation, "samples", samples)
        stopped = run(tmp_path / "1", data, stop=lambda: asked[-1] if asked else None)
    assert not stopped.finished and stopped.exact and len(asked) == 1
    assert names(tmp_path / "1/snapshots") == ["iter_000003.pth"]
    assert names(tmp_path / "1/kept/samples") == ["iter_000003.png"]
    assert run(tmp_path / "2", data, (tmp_path / "1",)) == straight
