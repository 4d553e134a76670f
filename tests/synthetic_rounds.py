"""Whole rounds of records with planted effects, as if charlie and control had been trained on a cluster.

    python tests/synthetic_rounds.py FOLDER [--epochs 150] [--examples 1000] [--seed 0]

writes FOLDER/experiments/charlie and FOLDER/experiments/control. Records are made by `roundhouse.store`, outputs
by a model in which all that an analysis may find is put there on purpose, by a `Plan`. Weights are words, not weights.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from roundhouse import files  # noqa: E402
from roundhouse.config.round import load_round  # noqa: E402
from roundhouse.model.answers import Job, JobState  # noqa: E402
from roundhouse.model.attempt import Opened  # noqa: E402
from roundhouse.model.causes import Cause  # noqa: E402
from roundhouse.model.exit_codes import JobExitCode  # noqa: E402
from roundhouse.model.experiment import Experiment  # noqa: E402
from roundhouse.model.plan import Clock, Inputs, decide  # noqa: E402
from roundhouse.model.status import ExperimentStatus  # noqa: E402
from roundhouse.store import carried, history, json_files, record  # noqa: E402
from roundhouse.views import status_json  # noqa: E402

Array = NDArray[Any]
ByAlpha = Mapping[str, Mapping[float, float]]  # method -> alpha -> value; 0 where nothing is said

CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "tinyimagenet": 200, "digits": 10}
WIDTHS = {"stage1": (16, 0.6), "stage2": (32, 0.45), "stage3": (64, 0.3)}  # name -> features, their noise
LATENTS = 16
STARTED = 1767225600.0  # when the first job of a round began, in seconds since 1970
SCHEDULER = {"kind": "slurm", "server": "synthetic", "user": "user", "boot": ""}
ENVIRONMENT = {
    "python": "3.11.7", "commit": "0123456789abcdef0123456789abcdef01234567", "edited": False, "device": "cuda",
    "torch": "2.4.1+cu121", "numpy": "1.26.4", "precision": "fp16", "deterministic": True,
    "model": "Tesla V100-SXM2-32GB", "cuda": "12.1", "cudnn": 90100,
}  # fmt: skip
ERROR = """Traceback (most recent call last):
  File "train.py", line 130, in <module>
    sys.exit(main(sys.argv))
RuntimeError: CUDA error: an illegal memory access was encountered
"""
STATES = ("completed", "requeued", "running", "queued", "failed", "cancelled", "cut", "damaged")
"""What `write_experiment` can make.

`requeued`: completed, in a second attempt after the first one's walltime. `cut`: completed, but metrics.json ends in
the middle. `damaged`: completed, but history.json holds no JSON. `failed`: twice, by a Python error.
"""


@dataclass(frozen=True)
class Plan:
    """What is planted. `gains`: accuracy (0.02 is two points) above that of the plain student, at an alpha.

    `fidelity`, `similarity`: from 0 to 1, how much of what is the teacher's own is in the student's logits and in its
    features. `excess`: mean confidence minus accuracy, as a share of the errors, for hard and for smoothed labels.
    """

    accuracy: Mapping[str, float] = field(
        default_factory=lambda: {"cifar10": 0.93, "cifar100": 0.71, "svhn": 0.96, "tinyimagenet": 0.55, "digits": 0.95}
    )
    teacher_gain: float = 0.02
    seed_noise: float = 0.003  # standard deviation of the accuracy between seeds
    gains: ByAlpha = field(
        default_factory=lambda: {
            "logit": {0.25: 0.02, 0.5: 0.02, 0.75: 0.02},
            "fitnets": {0.5: 0.015, 0.75: 0.015},
            "control": {0.25: -0.002, 0.5: -0.004, 0.75: -0.008},
        }
    )
    fidelity: ByAlpha = field(
        default_factory=lambda: {
            "logit": {0.25: 0.4, 0.5: 0.6, 0.75: 0.8},
            "fitnets": {0.25: 0.1, 0.5: 0.2, 0.75: 0.3},
        }
    )
    similarity: ByAlpha = field(
        default_factory=lambda: {
            "logit": {0.25: 0.2, 0.5: 0.3, 0.75: 0.4},
            "fitnets": {0.25: 0.3, 0.5: 0.5, 0.75: 0.7},
            "attention_transfer": {0.25: 0.3, 0.5: 0.5, 0.75: 0.7},
            "factor_transfer": {0.25: 0.2, 0.5: 0.4, 0.75: 0.6},
        }
    )
    excess: float = 0.5
    smoothed_excess: float = 0.1


DEFAULT = Plan()


def planted(values: ByAlpha, experiment: Experiment) -> float:
    """What is planted for the experiment's method and alpha."""
    return values.get(experiment.config["method"], {}).get(experiment.config.get("alpha", 0.0), 0.0)


def _random(*words: object) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(str(word).encode()) for word in words])


# ------------------------------------------------------------------------------------------------------------- outputs


@dataclass(frozen=True)
class World:
    """What all runs on a data set share: N test rows, then N / 2 validation rows."""

    examples: int
    labels: Array  # (rows,)
    logits: Array  # (rows, classes): what the images themselves suggest
    ease: Array  # (rows,)
    latents: Array  # (rows, LATENTS): what the images are, classes apart from each other


@lru_cache(maxsize=16)
def world(dataset: str, examples: int, seed: int) -> World:
    """The data set's examples."""
    random, classes = _random(seed, "world", dataset), CLASSES[dataset]
    held = examples // 2
    labels = np.concatenate([random.permutation(np.arange(rows) % classes) for rows in (examples, held)])
    centres = random.standard_normal((classes, LATENTS))
    latents = 0.8 * centres[labels] + 0.6 * random.standard_normal((len(labels), LATENTS))
    normal = random.standard_normal((len(labels), classes + 1))
    return World(examples, labels, normal[:, 1:], normal[:, 0], latents)


def _own(place: str, rows: int, classes: int, seed: int) -> Array:
    """Differs between runs, (rows, classes + 2 + LATENTS), standard normal: of logits, ease, confidence, latents."""
    return _random(seed, "own", place).standard_normal((rows, classes + 2 + LATENTS))


_teachers_own = lru_cache(maxsize=3)(_own)  # students of three seeds take turns in a round


def outputs(experiment: Experiment, plan: Plan, examples: int, seed: int = 0) -> dict[str, Array]:
    """The arrays of outputs.npz, with names, shapes and types as `studies.distillation.evaluation` has them."""
    config = experiment.config
    shared, classes = world(config["dataset"], examples, seed), CLASSES[config["dataset"]]
    own = _own(f"{experiment.round}/{experiment.path}", len(shared.labels), classes, seed)
    for led in experiment.after.get("teacher", ()):
        teacher = _teachers_own(f"{experiment.round}/{led}", len(shared.labels), classes, seed)
        share = np.repeat(
            [planted(plan.fidelity, experiment), planted(plan.similarity, experiment)], [classes + 2, LATENTS]
        )
        own = share * teacher + np.sqrt(1 - share**2) * own
    random = _random(seed, "run", experiment.round, experiment.path)
    target = plan.accuracy[config["dataset"]] + planted(plan.gains, experiment)
    target += plan.teacher_gain * (experiment.group == "teacher") + plan.seed_noise * random.standard_normal()
    smoothed = config["method"] == "pure" and config.get("label_smoothing", 0.0) > 0
    logits = _logits(shared, own[:, : classes + 2], target, plan.smoothed_excess if smoothed else plan.excess)
    test, held = slice(0, examples), slice(examples, None)
    labels = {"labels": shared.labels[test], "validation_labels": shared.labels[held]}
    features = _features(shared.latents[test], own[test, -LATENTS:], random)
    return {"logits": logits[test], **features, "validation_logits": logits[held], **labels}


def _logits(shared: World, own: Array, target: float, excess: float) -> Array:
    """Logits (rows, classes), in float16, that are right for a share `target` of test and of validation rows."""
    raw = 0.6 * shared.logits + 0.8 * own[:, 2:]
    ease = 0.85 * shared.ease + 0.5 * own[:, 0]
    rows = np.arange(len(raw))
    raw[rows, shared.labels] = -np.inf
    predicted = raw.argmax(1)
    raw[rows, shared.labels] = own[:, 2:][rows, shared.labels]
    margin = np.empty(len(raw))
    for part in (slice(0, shared.examples), slice(shared.examples, None)):
        count = len(ease[part])
        right = round(min(max(target, 0.0), 1.0) * count)
        order = np.argsort(-ease[part])
        chosen = rows[part][order[:right]]
        predicted[chosen] = shared.labels[chosen]
        threshold = ease[part][order[min(right, count - 1)]]
        margin[part] = 0.1 + 2 * np.log1p(np.exp(ease[part] - threshold + 0.6 * own[part, 1]))
    raw[rows, predicted] = -np.inf
    raw[rows, predicted] = raw.max(1) + margin
    return (_scale(raw[: shared.examples], target + excess * (1 - target)) * raw).astype(np.float16)


def _scale(raw: Array, confidence: float) -> float:
    """The factor at which mean confidence has the requested value. The first 200 rows are enough to find it."""
    raw = raw[:200] - raw[:200].max(1, keepdims=True)
    low, high = np.log(0.3), np.log(8.0)
    for _ in range(12):
        middle = (low + high) / 2
        mean = (1 / np.exp(np.exp(middle) * raw).sum(1)).mean()
        low, high = (middle, high) if mean < confidence else (low, middle)
    return float(np.exp((low + high) / 2))


def _features(shared: Array, own: Array, random: np.random.Generator) -> dict[str, Array]:
    """Features (N, width) of the stages: latents in a basis of the run's own, with noise, and nothing below 0."""
    latents = 0.85 * shared + 0.55 * own
    found = {}
    for name, (width, noise) in WIDTHS.items():
        basis, _ = np.linalg.qr(random.standard_normal((width, LATENTS)))
        maps = latents @ basis.T + noise * np.sqrt(LATENTS / width) * random.standard_normal((len(latents), width))
        found[name] = np.maximum(maps + 0.3, 0).astype(np.float16)
    return {"pooled": found["stage3"].copy(), **found}


def scores(logits: Array, labels: Array) -> tuple[float, float]:
    """Accuracy, and mean cross entropy in nats."""
    logits = logits.astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    entropy = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    return float((logits.argmax(1) == labels).mean()), float(entropy.mean())


# ------------------------------------------------------------------------------------------------------------- metrics

_WEIGHTS = {"logit": 1.0, "fitnets": 100.0, "attention_transfer": 1000.0, "factor_transfer": 500.0, "rkd": 25.0,
            "nst": 50.0}  # fmt: skip
_LARGER = {"attention_transfer": 4.0, "factor_transfer": 2.0}  # of the weight, for images of 64x64
_STEPS = 351  # of an epoch
_SECONDS = {"svhn": 1.5, "tinyimagenet": 8.0, "digits": 0.1}  # of an epoch, relative to CIFAR's


def epochs_of(experiment: Experiment, arrays: Mapping[str, Array], epochs: int, seed: int = 0) -> list[dict[str, Any]]:
    """The epochs of metrics.json: `epochs` of stage `train`, after those of the paraphraser if there is one."""
    random = _random(seed, "curves", experiment.round, experiment.path)
    config = experiment.config
    distilled = bool(experiment.after)
    pace = 9.0 * _SECONDS.get(config["dataset"], 1.0) * (2.0 if experiment.group == "teacher" else 1.0)
    first = []
    if config["method"] == "factor_transfer":
        number = min(30, max(1, epochs // 5))
        losses = 0.2 + 0.6 * np.exp(-np.arange(number) / 3)
        first = _rows("paraphraser", 0, {"preparation_loss": losses}, 0.7 * pace, random)
    done = np.arange(1, epochs + 1) / epochs
    wobble = (1.02 - done) * random.standard_normal((4, epochs))
    accuracy, loss = scores(arrays["validation_logits"], arrays["validation_labels"])
    truth = loss * (0.4 + 2 * np.exp(-6 * done)) * np.exp(0.1 * wobble[0])
    columns = {
        "loss": (1 - config.get("alpha", 0.0)) * truth,
        "train_accuracy": np.clip(accuracy + 0.5 * (1 - accuracy) * done - 0.6 * np.exp(-7 * done), 0.01, 1),
    }
    led = _distillation(config, done, wobble[1], columns) if distilled else {}
    columns |= {name: led.pop(name) for name in ("loss", "distillation_loss") if name in led}
    columns |= {"accumulation": np.ones(epochs), **led}
    columns["val_accuracy"] = _validation(accuracy, done, wobble[2], len(arrays["validation_labels"]), random)
    columns["val_loss"] = loss * (1 + 2 * np.exp(-6 * done)) * np.exp(0.05 * wobble[3])
    columns["val_loss"][columns["val_accuracy"].argmax()] = loss
    return first + _rows("train", len(first), columns, pace * (1.6 if distilled else 1.0), random)


def _distillation(config: Mapping[str, Any], done: Array, wobble: Array, columns: dict[str, Array]) -> dict[str, Array]:
    """The columns that only distilled runs have, and their loss."""
    alpha, method = config["alpha"], config["method"]
    larger = _LARGER.get(method, 1.0) if config["dataset"] == "tinyimagenet" else 1.0
    weight = np.full(len(done), _WEIGHTS[method] * larger)
    distance = (0.3 + np.exp(-4 * done)) * np.exp(0.1 * wobble) / weight
    truth, led = (1 - alpha) * (0.5 + done), alpha * weight * distance
    return {
        "loss": columns["loss"] + led,
        "distance_weight": weight,
        "truth_gradient": truth,
        "distance_gradient": led,
        "gradient_ratio": led / truth,
        "distillation_loss": distance,
    }


def _validation(accuracy: float, done: Array, wobble: Array, held: int, random: np.random.Generator) -> Array:
    """A curve of shares of `held` images, whose first maximum is `accuracy`, in its last tenth."""
    rising = accuracy - (0.8 * accuracy) * np.exp(-6 * done) - 0.05 * np.abs(wobble)
    curve: Array = np.clip(np.round(rising * held), 0, max(round(accuracy * held) - 1, 0)) / held
    curve[-1 - random.integers(0, len(done) // 10 + 1)] = accuracy
    return curve


def _rows(
    stage: str, before: int, columns: Mapping[str, Array], pace: float, random: np.random.Generator
) -> list[dict[str, Any]]:
    count = len(next(iter(columns.values())))
    seconds = (pace * (1 + 0.02 * random.random(count))).round(3)
    memory = np.full(count, 900 + round(100 * pace), dtype=int)
    lists = [column.tolist() for column in (*columns.values(), seconds, memory)]
    names = [*columns, "seconds", "peak_memory_mb"]
    return [
        {
            "stage": stage,
            "epoch": before + number,
            "step": _STEPS * (before + number),
            **dict(zip(names, values, strict=True)),
        }
        for number, values in enumerate(zip(*lists, strict=True), 1)
    ]


def final_of(arrays: Mapping[str, Array], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The final metrics of a run that is through."""
    accuracy, loss = scores(arrays["logits"], arrays["labels"])
    count = len(arrays["labels"])
    chance = float(np.bincount(arrays["labels"]).max() / count)
    at_best = rows[-1]["val_accuracy"] == max(row.get("val_accuracy", 0.0) for row in rows)
    last = accuracy if at_best else max(round(accuracy * count) - 1, 0) / count
    return {"test_accuracy": accuracy, "test_loss": loss, "chance_accuracy": chance, "last_test_accuracy": last}


def metrics(rows: Sequence[Mapping[str, Any]], final: Mapping[str, float] | None) -> dict[str, Any]:
    """The content of metrics.json after these epochs."""
    validated = [row for row in rows if "val_accuracy" in row]
    best = max(validated, key=lambda row: row["val_accuracy"], default=None)
    used = {
        "seconds": round(sum(row["seconds"] for row in rows), 3),
        "train_seconds": round(sum(0.9 * row["seconds"] for row in rows), 3),
        "peak_memory_mb": max(row["peak_memory_mb"] for row in rows),
    }
    reported = best and {key: best[key] for key in ("epoch", "step", "val_accuracy")}
    return {"metric": "val_accuracy", "mode": "max", "exact": True, "best": reported, "final": final, "used": used,
            "epochs": list(rows)}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- records


def weights(experiment: str, name: str) -> bytes:
    """A substitute for weights: enough to be pinned and recognised."""
    return f"synthetic {name} of {experiment}\n".encode()


def pinned(experiment: Experiment) -> dict[str, list[dict[str, str]]]:
    """The inputs of job.json, as a pass pins them."""
    return {
        group: [{"path": path, "sha256": hashlib.sha256(weights(path, "best.pth")).hexdigest()} for path in paths]
        for group, paths in experiment.after.items()
    }


@dataclass
class _Job:
    """An attempt under way: what its runner, its shell and its training write."""

    directory: Path
    experiment: Experiment
    number: int
    began: float
    host: str
    id: str

    @classmethod
    def submit(cls, directory: Path, experiment: Experiment, number: int, began: float) -> _Job:
        """What a runner does, a minute before the job starts."""
        opened = Opened(record.new_token(), SCHEDULER, experiment.config_hash(), pinned(experiment))
        identity = zlib.crc32(f"{experiment.path} {number}".encode())
        job = cls(directory, experiment, number, began, f"gpu{identity % 12:02d}", str(100000 + identity % 900000))
        if not record.open_attempt(directory, number, opened):
            raise SystemExit(f"{directory} has an attempt {number} already: take a new folder")
        record.write_config(directory, experiment)
        (job.place / record.SCRIPT).write_text("#!/bin/bash\n# a job script\n")
        record.record_job_id(directory, number, job.id)
        os.utime(job.place / record.JOB, (began - 60, began - 60))
        return job

    @property
    def place(self) -> Path:
        return record.attempt_directory(self.directory, self.number)

    @property
    def nonce(self) -> str:
        return f"{self.host}-{self.id}-{self.began:.0f}"

    def start(self) -> None:
        """What the job's shell does, and then Python, before the first epoch."""
        pid = int(self.id) % 30000 + 1000
        claim = {"job_id": self.id, "host": self.host, "boot_id": f"boot-of-{self.host}", "pid": pid}
        self._say(record.CLAIM, {**claim, "pid_start": str(100 * pid), "at": int(self.began)})
        (self.place / record.SCHEDULER_LOG).touch()
        environment = {"version": json_files.VERSION, "host": self.host, **ENVIRONMENT}
        (self.place / record.ENVIRONMENT).write_bytes(files.dump(environment))
        (self.place / record.PROGRESS).write_bytes(
            files.dump(
                {
                    "version": json_files.VERSION,
                    "unit": None,
                    "step": 0,
                    "started_step": 0,
                    "epoch": 0,
                    "started_epoch": 0,
                }
            )  # fmt: skip
        )
        self._print(f"roundhouse: attempt {self.number} of {self.directory}, job {self.id} on {self.host}\n")

    def train(
        self, rows: Sequence[Mapping[str, Any]], started: int, total: int, arrays: Mapping[str, Array] | None = None
    ) -> None:
        """What training writes: `rows` are all epochs so far, `started` of them of earlier attempts.

        With `arrays` it is through, and has written its outputs.
        """
        content: dict[str, bytes] = {}
        final = final_of(arrays, rows) if arrays else None
        reported = metrics(rows, final)
        if reported["best"]:
            content["best.pth"] = weights(self.experiment.path, "best.pth")
        if arrays:
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)  # type: ignore[arg-type]  # the stub thinks an array may be allow_pickle
            content["outputs.npz"] = buffer.getvalue()
        if rows[0]["stage"] == "paraphraser" and rows[-1]["stage"] == "train":
            content["kept/paraphraser.pth"] = weights(self.experiment.path, "paraphraser.pth")
        content["checkpoint.pth"] = weights(self.experiment.path, "checkpoint.pth")
        for name, data in {**content, "metrics.json": files.dump(reported)}.items():
            (self.place / name).parent.mkdir(exist_ok=True)
            (self.place / name).write_bytes(data)
        progress: dict[str, Any] = {
            "version": json_files.VERSION,
            "unit": "epoch",
            "step": _STEPS * len(rows),
            "steps": _STEPS * total,
            "started_step": _STEPS * started,
            "epoch": len(rows),
            "started_epoch": started,
            "epochs": total,
        }
        progress |= {"stage": rows[-1]["stage"], "metric_name": "val_accuracy"}
        best = reported["best"] and reported["best"]["val_accuracy"]
        progress |= {"metric": rows[-1].get("val_accuracy"), "best": best, "exact": True}
        if final:
            progress["artifacts"] = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
            progress |= {"final_hash": hashlib.sha256(self.experiment.path.encode()).hexdigest(), "final": final}
        (self.place / record.PROGRESS).write_bytes(files.dump(progress))
        self._print("".join(_line(row, total) for row in rows[started:]))
        if arrays:
            self._print(f"roundhouse: completed after epoch {total}/{total}\n")

    def end(self, cause: Cause, code: int, seconds: float, why: str = "", signals: Sequence[str] = ()) -> None:
        """The last word of the job's shell."""
        self._print(f"roundhouse: attempt {self.number} ended: {cause}{f' ({why})' if why else ''}\n")
        reported = {"cause": str(cause), "why": why, "exit_code": code, "signals": list(signals), "final": False}
        self._say(record.RESULT, {**reported, "at": int(self.began + seconds + 30)})

    def _say(self, name: str, value: Mapping[str, Any]) -> None:
        line = json.dumps({"version": json_files.VERSION, "nonce": self.nonce, **value})
        (self.place / name).write_text(f"{line}\n")

    def _print(self, text: str) -> None:
        with (self.place / record.LOG).open("a") as log:
            log.write(text)

    def refresh(self) -> None:
        """What a pass does with such an experiment: compact it if it is completed, and write status.json."""
        rec = record.read(self.directory)
        carried.link_outputs(rec)
        history.compact(rec)
        rec = record.read(self.directory)
        assert rec.newest is not None
        state = JobState.RUNNING if rec.newest.claim else JobState.QUEUED
        answer, inputs = Job(self.id, rec.newest.opened.token, state), Inputs(pinned(self.experiment))
        clock = Clock(time.time(), 0.0, 0.0)
        action = decide(rec, answer, inputs, clock, self.experiment.config_hash(), scheduler=SCHEDULER)
        record.write_status(
            self.directory,
            status_json.file_content(ExperimentStatus(self.experiment, rec, action, inputs, state.value)),
        )


def _line(row: Mapping[str, Any], total: int) -> str:
    reported = ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key not in ("stage", "epoch", "step",
                                                                                      "peak_memory_mb"))  # fmt: skip
    return f"epoch {row['epoch']}/{total} ({row['stage']}): {reported}\n"


def write_experiment(
    experiments: Path,
    experiment: Experiment,
    state: str = "completed",
    plan: Plan = DEFAULT,
    *,
    epochs: int = 150,
    examples: int = 1000,
    seed: int = 0,
    done: int | None = None,
) -> None:
    """One experiment's record, in one of `STATES`. `done`: epochs done so far, if it is not through; half by default.

    Its dependencies are not checked. SystemExit: it has a record already.
    """
    directory = experiments / experiment.round / experiment.path
    arrays = outputs(experiment, plan, examples, seed)
    rows = epochs_of(experiment, arrays, epochs, seed)
    sofar = rows[: done or max(1, len(rows) // 2)]
    spent = sum(row["seconds"] for row in sofar)
    offset = _random("began", experiment.round, experiment.path).integers(0, 4 * 3600)
    began = STARTED + int(offset) + (16 * 3600 if experiment.after else 0)
    job = _Job.submit(directory, experiment, 1, time.time() - spent if state in ("running", "queued") else began)
    if state != "queued":
        job.start()
    if state in ("running", "cancelled", "requeued"):
        job.train(sofar, 0, len(rows))
    if state == "failed":
        for number in (1, 2):
            job._print(ERROR)
            job.end(Cause.ERROR, JobExitCode.ERROR, 60, f"exit code {JobExitCode.ERROR}")
            if number == 1:
                job = _Job.submit(directory, experiment, 2, began + 3600)
                job.start()
    elif state == "cancelled":
        record.request_cancel(directory, 1)
        job.end(Cause.CANCELLED, JobExitCode.STOPPED, spent, signals=["TERM"])
    elif state == "requeued":
        job.end(Cause.WALLTIME, JobExitCode.WALLTIME, spent, "no further epoch fits into the walltime")
        job = _Job.submit(directory, experiment, 2, began + spent + 3600)
        job.start()
    if state in ("completed", "requeued", "cut", "damaged"):
        started = len(sofar) if state == "requeued" else 0
        job.train(rows, started, len(rows), arrays)
        job.end(Cause.COMPLETED, JobExitCode.COMPLETED, sum(row["seconds"] for row in rows[started:]))
    job.refresh()
    if state == "cut":
        path = job.place / "metrics.json"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif state == "damaged":
        files.replace(directory / record.HISTORY, b"\0" * 64)


# -------------------------------------------------------------------------------------------------------------- rounds


@contextmanager
def unsynced() -> Iterator[None]:
    """Let files reach the disk when the system likes: a synthetic round need not outlive a power cut."""
    with mock.patch("os.fsync", return_value=None):
        yield


def write_round(
    experiments: Path,
    name: str,
    rounds: Path = REPOSITORY / "rounds",
    plan: Plan = DEFAULT,
    *,
    epochs: int = 150,
    examples: int = 1000,
    seed: int = 0,
    only: Callable[[Experiment], bool] = lambda experiment: True,
    durable: bool = False,
) -> None:
    """The completed records of `rounds/NAME.yaml`, or of those of its experiments that `only` takes.

    Every number in them follows from the arguments; names of jobs and the times of files do not. `durable`: wait for
    the disk after each file, as a real pass does.
    """
    with nullcontext() if durable else unsynced():
        for experiment in load_round(name, rounds).experiments:
            if only(experiment):
                write_experiment(experiments, experiment, "completed", plan, epochs=epochs, examples=examples,
                                 seed=seed)  # fmt: skip


def write_charlie(
    experiments: Path,
    plan: Plan = DEFAULT,
    *,
    epochs: int = 150,
    examples: int = 1000,
    seed: int = 0,
) -> None:
    """All of charlie and of control."""
    for name in ("charlie", "control"):
        write_round(experiments, name, plan=plan, epochs=epochs, examples=examples, seed=seed)


MIXED = """\
# One of everything that a record can be.
round: mixed
study: distillation
resources: {ncpus: 8, ngpus: 1, mem: 16gb, walltime: "2:00:00"}
defaults: {dataset: digits, epochs: 150, label_smoothing: 0.1}

experiments:
  teacher:
    path: "{dataset}/pure/{model}/{seed}"
    grid: {seed: &seeds [0, 1]}
    config: {model: ResNet20, method: pure}
    priority: 10

  student:
    path: "{dataset}/pure/{model}/{seed}"
    grid: {seed: [0, 1, 2]}
    config: {model: ResNet8, method: pure}

  distilled:
    path: "{dataset}/{method}/alpha_{alpha}/{teacher}_to_{model}/{seed}"
    grid: {method: [logit, fitnets, factor_transfer], alpha: [0.25, 0.5], seed: *seeds}
    config: {teacher: ResNet20, model: ResNet8}
    after: {teacher: {seed: "{seed}"}}
    baseline: student
"""
_MIXED = {
    "digits/pure/ResNet20/0": "completed",
    "digits/pure/ResNet20/1": "running",
    "digits/pure/ResNet8/0": "completed",
    "digits/pure/ResNet8/1": "cut",
    "digits/pure/ResNet8/2": "queued",
    "digits/logit/alpha_0.25/ResNet20_to_ResNet8/0": "completed",
    "digits/logit/alpha_0.5/ResNet20_to_ResNet8/0": "requeued",
    "digits/fitnets/alpha_0.25/ResNet20_to_ResNet8/0": "failed",
    "digits/fitnets/alpha_0.5/ResNet20_to_ResNet8/0": "cancelled",
    "digits/factor_transfer/alpha_0.25/ResNet20_to_ResNet8/0": "damaged",
    "digits/factor_transfer/alpha_0.5/ResNet20_to_ResNet8/0": "running",
}


def write_mixed(
    experiments: Path, rounds: Path, *, epochs: int = 10, examples: int = 100, seed: int = 0
) -> dict[str, str | None]:
    """A small round `mixed`, and its file in `rounds`: one of everything. Returns what was made of each path.

    None: never begun, since its teacher still runs. The student that runs is still in its paraphraser's stage.
    """
    rounds.mkdir(parents=True, exist_ok=True)
    (rounds / "mixed.yaml").write_text(MIXED)
    made: dict[str, str | None] = {}
    with unsynced():
        for experiment in load_round("mixed", rounds).experiments:
            state = made[experiment.path] = _MIXED.get(experiment.path)
            done = 1 if experiment.config["method"] == "factor_transfer" else None
            if state is not None:
                write_experiment(experiments, experiment, state, epochs=epochs, examples=examples, seed=seed,
                                 done=done)  # fmt: skip
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Write charlie and control as if they had been trained.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="gets a folder `experiments`")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--examples", type=int, default=1000, help="test images of each data set")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    target = options.folder / "experiments"
    write_charlie(target, epochs=options.epochs, examples=options.examples, seed=options.seed)
    print(f"{target}/charlie and {target}/control: written in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
