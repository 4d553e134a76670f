"""Synthetic rounds: their records are like real ones, and contain exactly the planted effects."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rounds_for_tests import REPOSITORY
from small_study import train
from synthetic_rounds import (
    DEFAULT,
    SCHEDULER,
    STATES,
    Plan,
    epochs_of,
    outputs,
    write_experiment,
    write_mixed,
    write_round,
)

from roundhouse.config.round import load_round
from roundhouse.engine import offline
from roundhouse.model.answers import Job, JobState
from roundhouse.model.attempt import Record
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import Clock, Inputs, State, Verb, decide
from roundhouse.settings import Settings
from roundhouse.store import logs, record
from roundhouse.training import read_options
from studies.distillation import data
from studies.distillation import train as distillation
from studies.distillation.data import Split
from studies.distillation.options import Options

CHARLIE = load_round("charlie", REPOSITORY / "rounds").experiments
CONTROL = load_round("control", REPOSITORY / "rounds").experiments
BY_PATH = {one.path: one for one in [*CHARLIE, *CONTROL]}
PURE = "cifar10/pure/ResNet56/0"


def one(method: str, alpha: float = 0.5, dataset: str = "cifar100", seed: int = 0) -> Experiment:
    if method == "control":
        return BY_PATH[f"{dataset}/control/alpha_{alpha}/ResNet56/{seed}"]
    return BY_PATH[f"{dataset}/{method}/alpha_{alpha}/ResNet112_to_ResNet56/{seed}"]


def read(experiments: Path, experiment: Experiment) -> Record:
    return record.read(experiments / experiment.round / experiment.path)


def metrics_at(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "metrics.json").read_text())
    return found


def accuracy(arrays: Mapping[str, Any], of: str = "") -> float:
    right: np.ndarray = arrays[f"{of}logits"].argmax(1) == arrays[f"{of}labels"]
    return float(right.mean())


def probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(float) - logits.max(1, keepdims=True))
    normalised: np.ndarray = powers / powers.sum(1, keepdims=True)
    return normalised


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """Linear CKA, biased: good enough to say which of two is the larger."""
    one, other = (features.astype(float) - features.astype(float).mean(0) for features in (one, other))
    norms = np.linalg.norm(one.T @ one) * np.linalg.norm(other.T @ other)
    return float(np.linalg.norm(one.T @ other) ** 2 / norms)


# --------------------------------------------------------------------------------------------------- rounds of records


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of charlie and of control, with few epochs and examples."""
    experiments = tmp_path_factory.mktemp("synthetic") / "experiments"
    for name in ("charlie", "control"):
        write_round(experiments, name, epochs=2, examples=20)
    return experiments


def test_all_of_charlie_and_of_control_reads_back_as_completed(written: Path) -> None:
    assert (len(CHARLIE), len(CONTROL)) == (240, 48)
    for experiments in (CHARLIE, CONTROL):
        directories = {one.path: written / one.round / one.path for one in experiments}
        assert sum(1 for _ in (written / experiments[0].round).rglob("history.json")) == len(experiments)
        rows = offline.statuses(experiments, directories)
        assert Counter(row.action.state for row in rows.values()) == {State.COMPLETED: len(experiments)}
        assert all(row.record.compacted and not row.record.damage and not row.record.notes for row in rows.values())
        for row in rows.values():
            assert row.record.completed is not None
            assert row.record.completed.opened.inputs == row.inputs.pinned, "a student is pinned to its teacher"
            assert record.status_says(row.record.directory, "completed")
            config = record.read_config(row.record.directory)
            assert record.config_hash(config) == row.experiment.config_hash()


def test_what_progress_has_of_a_file_is_that_files_hash(written: Path) -> None:
    directory = written / "charlie" / one("factor_transfer").path
    done = record.read(directory).completed
    assert done is not None
    assert done.progress is not None
    assert set(done.progress.artifacts) == {"best.pth", "outputs.npz", "checkpoint.pth", "kept/paraphraser.pth"}
    for name, digest in done.progress.artifacts.items():
        assert hashlib.sha256((directory / "attempts" / "1" / name).read_bytes()).hexdigest() == digest


def test_metrics_agree_with_the_outputs_that_were_saved(written: Path) -> None:
    for path in (PURE, "tinyimagenet/logit/alpha_0.25/ResNet112_to_ResNet56/2"):
        directory = written / "charlie" / path
        reported, arrays = metrics_at(directory), np.load(directory / "outputs.npz")
        assert reported["final"]["test_accuracy"] == accuracy(arrays)
        assert reported["best"]["val_accuracy"] == accuracy(arrays, "validation_")
        of_label = probabilities(arrays["logits"])[np.arange(20), arrays["labels"]]
        assert reported["final"]["test_loss"] == pytest.approx(-np.log(of_label).mean())
        best = reported["epochs"][reported["best"]["epoch"] - 1]
        assert best["val_accuracy"] == max(epoch["val_accuracy"] for epoch in reported["epochs"])
        done = record.read(directory).completed
        assert done is not None
        assert done.progress is not None
        assert done.progress.final == reported["final"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    wanted = {PURE, one("nst", dataset="cifar10").path}
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_round(tmp_path / folder, "charlie", epochs=3, examples=30, seed=seed, only=lambda one: one.path in wanted)
    for path in wanted:
        for name in ("outputs.npz", "metrics.json", "config.yaml"):
            first, again, other = ((tmp_path / folder / "charlie" / path / name).read_bytes() for folder in "abc")
            assert first == again
            assert (first == other) == (name == "config.yaml")


def timeless(rec: Record) -> Record:
    """A record without what differs between runs: its folder, names of jobs, and times of files."""
    attempts = tuple(
        replace(
            one, opened=replace(one.opened, token=""), claim=one.claim and replace(one.claim, at=0), progress_at=None
        )
        for one in rec.attempts
    )
    return replace(rec, directory=Path(), attempts=attempts)


def test_records_are_the_same_whether_or_not_the_disk_was_waited_for(tmp_path: Path) -> None:
    experiment = one("logit")
    for folder, durable in (("slow", True), ("fast", False)):
        write_round(tmp_path / folder, "charlie", epochs=3, examples=20, durable=durable,
                    only=lambda one: one == experiment)  # fmt: skip
    slow, fast = (tmp_path / folder / "charlie" / experiment.path for folder in ("slow", "fast"))
    assert timeless(record.read(slow)) == timeless(record.read(fast))
    assert record.read(fast).completed is not None
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (slow, fast)]
    assert names[0] == names[1]


def test_a_record_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    write_experiment(tmp_path, BY_PATH[PURE], epochs=1, examples=10)
    with pytest.raises(SystemExit, match="take a new folder"):
        write_experiment(tmp_path, BY_PATH[PURE], epochs=1, examples=10)


# ------------------------------------------------------------------------------------------------------ like real runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What a teacher and three students left that were really trained, for one epoch."""
    torch.set_num_threads(1)
    digits = data.load("digits", None)
    few = replace(digits, train=Split(digits.train.images[:128], digits.train.labels[:128]))
    made: dict[str, Path] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "load", lambda name, folder, validation: few)
        for method in ("pure", "control", "logit", "factor_transfer"):
            made[method] = tmp_path_factory.mktemp(method)
            config = {"model": "ResNet8", "method": method, "epochs": 1, "batch_size": 64, "paraphraser_epochs": 1}
            inputs = {} if method in ("pure", "control") else {"teacher": [made["pure"]]}
            study = partial(distillation.train, options=read_options(Options, config), inputs=inputs, data=None)
            train(made[method], study, Settings(device="cpu"))
    return made


def shape(value: Any) -> Any:
    """A JSON value's keys, in their order, and the types of what is in it."""
    if isinstance(value, dict):
        return [(key, shape(inner)) for key, inner in value.items()]
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value)


@pytest.mark.parametrize("method", ["pure", "control", "logit", "factor_transfer"])
def test_metrics_and_outputs_have_the_form_of_really_trained_ones(
    trained: dict[str, Path], method: str, tmp_path: Path
) -> None:
    experiment = BY_PATH[PURE] if method == "pure" else one(method, dataset="cifar10")
    write_experiment(tmp_path, experiment, epochs=1, examples=20)
    directory = tmp_path / experiment.round / experiment.path
    assert shape(metrics_at(directory)) == shape(metrics_at(trained[method]))
    ours, real = np.load(directory / "outputs.npz"), np.load(trained[method] / "outputs.npz")
    assert list(ours) == list(real)
    for name in real:
        assert ours[name].dtype == real[name].dtype
        assert ours[name].shape == (10 if "validation" in name else 20, *real[name].shape[1:])


# ---------------------------------------------------------------------------------------------------- what was planted


@pytest.mark.parametrize("dataset", ["cifar10", "tinyimagenet"])
@pytest.mark.parametrize("method", ["logit", "fitnets", "rkd", "control"])
def test_accuracy_is_the_planted_one_to_one_example(dataset: str, method: str) -> None:
    quiet = Plan(seed_noise=0.0)
    for alpha in (0.25, 0.5, 0.75):
        experiment = one(method, alpha, dataset)
        wanted = quiet.accuracy[dataset] + quiet.gains.get(method, {}).get(alpha, 0.0)
        assert abs(accuracy(outputs(experiment, quiet, 400)) - wanted) < 1 / 400


def test_teachers_are_better_than_plain_students_by_the_planted_gain() -> None:
    teacher, student = (BY_PATH[f"svhn/pure/{model}/1"] for model in ("ResNet112", "ResNet56"))
    quiet = Plan(seed_noise=0.0)
    gain = accuracy(outputs(teacher, quiet, 500)) - accuracy(outputs(student, quiet, 500))
    assert gain == pytest.approx(0.02)


def test_a_method_without_a_planted_effect_is_like_the_control_but_for_noise_of_the_planted_size() -> None:
    plain = [one("control", 0.0, "cifar10", seed) for seed in range(3)]
    null = [one(method, alpha, "cifar10", seed)
            for method in ("rkd", "nst") for alpha in (0.25, 0.5, 0.75) for seed in range(3)]  # fmt: skip
    values = np.array([accuracy(outputs(experiment, DEFAULT, 2000)) for experiment in [*plain, *null]])
    noise, base = DEFAULT.seed_noise, DEFAULT.accuracy["cifar10"]
    assert abs(values[3:].mean() - base) < 3 * noise / np.sqrt(len(null))
    assert noise / 2 < values[3:].std(ddof=1) < 2 * noise
    assert np.all(np.abs(values - base) < 4 * noise)


def test_with_more_planted_fidelity_a_student_says_more_often_what_its_own_teacher_says() -> None:
    own, others = (outputs(BY_PATH[f"cifar100/pure/ResNet112/{seed}"], DEFAULT, 400) for seed in (0, 1))
    predictions = [outputs(one("logit", alpha), DEFAULT, 400)["logits"].argmax(1) for alpha in (0.25, 0.5, 0.75)]
    plain = outputs(one("rkd"), DEFAULT, 400)["logits"].argmax(1)
    agreement = [float((words == own["logits"].argmax(1)).mean()) for words in (plain, *predictions)]
    assert agreement == sorted(agreement)
    assert agreement[-1] > agreement[0] + 0.1
    assert agreement[-1] > (predictions[-1] == others["logits"].argmax(1)).mean() + 0.1


@pytest.mark.parametrize("stage", ["stage1", "stage2", "pooled"])
def test_with_more_planted_similarity_features_are_more_like_the_teachers(stage: str) -> None:
    teacher = outputs(BY_PATH["cifar100/pure/ResNet112/0"], DEFAULT, 400)[stage]
    found = [alike(outputs(one("attention_transfer", alpha), DEFAULT, 400)[stage], teacher)
             for alpha in (0.25, 0.5, 0.75)]  # fmt: skip
    plain = alike(outputs(one("nst"), DEFAULT, 400)[stage], teacher)
    assert plain < found[0] < found[1] < found[2]


def test_two_seeds_of_one_setting_are_neither_strangers_nor_twins() -> None:
    first, second = (outputs(one("control", 0.0, seed=seed), DEFAULT, 400)["pooled"] for seed in (0, 1))
    shuffled = np.random.default_rng(0).permutation(second)
    assert alike(first, shuffled) + 0.2 < alike(first, second) < 0.9


def test_smoothed_labels_make_for_better_calibration_than_hard_ones() -> None:
    plain, hard = outputs(BY_PATH["cifar100/pure/ResNet56/0"], DEFAULT, 400), outputs(one("control", 0.0), DEFAULT, 400)
    excess = [probabilities(arrays["logits"]).max(1).mean() - accuracy(arrays) for arrays in (plain, hard)]
    assert 0 < excess[0] < 0.07 < excess[1]


def test_the_test_images_are_the_same_for_all_runs_on_a_data_set() -> None:
    found = [outputs(experiment, DEFAULT, 50)["labels"] for experiment in (one("logit"), one("control"), one("nst"))]
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()


def test_what_the_gradients_weigh_is_reported_with_each_epoch() -> None:
    experiment = one("attention_transfer", 0.75, "tinyimagenet")
    rows = epochs_of(experiment, outputs(experiment, DEFAULT, 40), 20)
    for row in rows:
        assert row["gradient_ratio"] == pytest.approx(row["distance_gradient"] / row["truth_gradient"])
        assert row["distance_weight"] == 4000
        assert row["loss"] > 0.75 * row["distance_weight"] * row["distillation_loss"]


# --------------------------------------------------------------------------------------------------------- mixed round


def decision(experiment: Experiment, rec: Record) -> tuple[State, Verb]:
    """What a pass on the cluster would make of it, were its inputs the ones that it was opened with."""
    newest, pinned = rec.newest, rec.runs[0].opened.inputs if rec.runs else {}
    state = JobState.RUNNING if newest and newest.claim else JobState.QUEUED
    answer = Job(newest.job_id or "", newest.opened.token, state) if newest else Job("", "", JobState.ENDED)
    clock = Clock(newest.opened.at if newest else 0.0, 0.0, 0.0)
    action = decide(rec, answer, Inputs(pinned), clock, experiment.config_hash(), scheduler=SCHEDULER)
    return action.state, action.verb


def test_a_mixed_round_has_one_of_everything(tmp_path: Path) -> None:
    made = write_mixed(tmp_path / "experiments", tmp_path / "rounds")
    assert set(made.values()) == {*STATES, None}
    loaded = load_round("mixed", tmp_path / "rounds").experiments
    expected = {
        "completed": State.COMPLETED, "requeued": State.COMPLETED, "cut": State.COMPLETED,
        "running": State.IN_PROGRESS, "queued": State.IN_PROGRESS, "failed": State.FAILED,
        "cancelled": State.CANCELLED, "damaged": State.BLOCKED,
    }  # fmt: skip
    for experiment in loaded:
        rec, state = read(tmp_path / "experiments", experiment), made[experiment.path]
        if state is None:
            assert not rec.directory.exists()
            continue
        assert decision(experiment, rec) == (expected[state], Verb.NOTHING)
        if state != "damaged":
            assert record.status_says(rec.directory, str(expected[state]))
    rows = offline.statuses(loaded, {one.path: tmp_path / "experiments" / "mixed" / one.path for one in loaded})
    never = [rows[path] for path, state in made.items() if state is None]
    assert {row.action.state for row in never} == {State.PENDING}
    assert all("waits for digits/pure/ResNet20/1, which is in_progress" in row.action.reason for row in never)


@pytest.fixture
def mixed(tmp_path: Path) -> dict[str, Path]:
    """Directories of a mixed round by what was made of them; of two that run, the student's."""
    made = write_mixed(tmp_path / "experiments", tmp_path / "rounds")
    return {state: tmp_path / "experiments" / "mixed" / path for path, state in made.items() if state}


def test_a_requeued_experiment_went_on_where_its_walltime_had_ended_it(mixed: dict[str, Path]) -> None:
    rec = record.read(mixed["requeued"])
    assert [attempt.cause for attempt in rec.attempts] == [Cause.WALLTIME, Cause.COMPLETED]
    first, second = (attempt.progress for attempt in rec.attempts)
    assert first is not None
    assert second is not None
    assert 0 < first.epoch == second.started_epoch < second.epoch
    sofar = metrics_at(mixed["requeued"] / "attempts" / "1")["epochs"]
    assert sofar == metrics_at(mixed["requeued"])["epochs"][: first.epoch]


def test_a_running_experiment_has_metrics_of_the_epochs_so_far_and_no_outputs(mixed: dict[str, Path]) -> None:
    place = mixed["running"] / "attempts" / "1"
    reported, newest = metrics_at(place), record.read(mixed["running"]).newest
    assert newest is not None
    assert newest.progress is not None
    assert newest.progress.epoch == len(reported["epochs"]) == 1 < (newest.progress.epochs or 0)
    assert (reported["best"], reported["final"], reported["epochs"][0]["stage"]) == (None, None, "paraphraser")
    assert not (place / "outputs.npz").exists()
    assert not (mixed["running"] / "metrics.json").exists()


def test_a_failed_experiment_failed_twice_and_its_log_ends_with_the_error(mixed: dict[str, Path]) -> None:
    assert [attempt.cause for attempt in record.read(mixed["failed"]).attempts] == [Cause.ERROR, Cause.ERROR]
    assert "RuntimeError: CUDA error" in logs.tail(mixed["failed"], 2).splitlines()[-2]


def test_damage_is_where_it_is_meant_to_be(mixed: dict[str, Path]) -> None:
    assert record.read(mixed["damaged"]).damage == "history.json is not valid JSON"
    assert (mixed["damaged"] / "metrics.json").exists()
    with pytest.raises(ValueError):
        metrics_at(mixed["cut"])
    assert record.read(mixed["cut"]).completed is not None
