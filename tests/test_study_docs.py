"""The studies in docs/adding_a_study.md learn, and end equal after a SIGKILL: through the real runner and real jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from rounds_for_tests import REPOSITORY, Rounds, finish, wait_for

PAGE = (REPOSITORY / "docs/adding_a_study.md").read_text()
FILES = dict(re.findall(r"`((?:studies|rounds)/[\w/]+\.\w+)`[^`]*?:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL))
SPIRALS, GAUSSIANS = {"epochs": 200}, {"steps": 1500}
LIMIT = 240.0


class Documented(Rounds):
    """A repository that has the studies of the page, and no others."""

    def argv(self, *options: str) -> list[str]:
        words = super().argv(*options)
        words[1] = str(self.folder / "repository/runner.py")
        return [*words, "--site", "here"]

    def make(self) -> None:
        root = self.folder / "repository"
        root.mkdir()
        for name in ("runner.py", "train.py"):
            (root / name).write_text((REPOSITORY / name).read_text())
        for name in ("roundhouse", "templates"):
            (root / name).symlink_to(REPOSITORY / name)
        for name in ("studies/__init__.py", "studies/spirals/__init__.py", "studies/eight_gaussians/__init__.py"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        for name, text in FILES.items():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(text)
        (root / "sites").mkdir()
        (root / "sites/here.yaml").write_text(f"data: {self.folder}\n")


@pytest.fixture
def documented(tmp_path: Path) -> Iterator[Documented]:
    made = Documented(folder=tmp_path)
    made.rounds.mkdir()
    made.make()
    try:
        yield made
    finally:
        made.kill()


def trainings(rounds: Rounds, path: str) -> list[psutil.Process]:
    directory = str(rounds.directory(path))
    return [one for one in rounds.jobs() if "train.py" in " ".join(one.cmdline()) and directory in one.cmdline()]


def result_of(rounds: Rounds, path: str) -> dict[str, Any]:
    """The last progress of a completed experiment."""
    history = json.loads((rounds.directory(path) / "history.json").read_text())
    progress: dict[str, Any] = history["attempts"][-1]["progress"]
    return progress


def saved_step(rounds: Rounds, path: str) -> int:
    progress = rounds.directory(path) / "attempts/1/progress.json"
    return int(json.loads(progress.read_text()).get("step") or 0) if progress.exists() else 0


@pytest.mark.parametrize(
    ("study", "config", "metric"),
    [("spirals", SPIRALS, "val_accuracy"), ("eight_gaussians", GAUSSIANS, "distance")],
)
def test_a_study_of_the_page_learns_and_ends_equal_after_a_kill(
    documented: Documented, study: str, config: dict[str, Any], metric: str
) -> None:
    group = {"study": study, "grid": {"seed": [1]}, "config": {"device": "cpu", **config}}
    documented.write({name: {"path": f"{name}/{{seed}}", **group} for name in ("whole", "killed")})
    runner = documented.start()
    wait_for(lambda: saved_step(documented, "killed/1"), "a checkpoint", LIMIT)
    (training,) = trainings(documented, "killed/1")
    training.kill()
    code, printed = finish(runner, LIMIT)
    assert code == 0, printed
    assert len(documented.record("killed/1").attempts) == 2
    log = (documented.directory("killed/1") / "attempts/2/out.log").read_text()
    assert "roundhouse: resumed after" in log
    whole, killed = (result_of(documented, path) for path in ("whole/1", "killed/1"))
    assert whole["final_hash"] == killed["final_hash"]
    assert whole["final"] == killed["final"]
    assert whole["exact"] is killed["exact"] is True
    assert whole["metric_name"] == metric
    if study == "spirals":
        assert whole["final"]["test_accuracy"] > 0.9, "chance is 0.5"
    else:
        check_gaussians(documented.directory("killed/1"), whole["final"])


def check_gaussians(directory: Path, final: dict[str, float]) -> None:
    """The GAN is ten times better than one Gaussian, however wide that is; its files are there."""
    assert final["test_distance"] < final["gaussian_distance"] / 5
    arrays = {name: torch.from_numpy(array) for name, array in np.load(directory / "outputs.npz").items()}
    single = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    best = min(energy_distance(scale * single, arrays["test"]) for scale in torch.linspace(0.1, 2, 39).tolist())
    assert final["test_distance"] == pytest.approx(energy_distance(arrays["samples"], arrays["test"]), abs=1e-4)
    assert final["test_distance"] < best / 3
    attempt = directory / "attempts/2"
    assert np.load(attempt / "kept/samples.npy").shape == (1000, 2)
    assert sorted(path.name for path in (attempt / "snapshots").iterdir()) == ["step_00001250.pth", "step_00001500.pth"]
    entries = json.loads((attempt / "metrics.json").read_text())["epochs"]
    assert [entry["step"] for entry in entries] == list(range(250, 1501, 250))
    assert all({"distance", "loss", "critic_loss"} <= entry.keys() for entry in entries)


def energy_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean())


def test_the_round_of_the_page_is_checked_before_anything_is_submitted(documented: Documented) -> None:
    (documented.rounds / "spirals.yaml").write_text(FILES["rounds/spirals.yaml"])
    done = documented.call("--dry-run", name="spirals")
    assert done.returncode == 0, done.stderr
    assert "cannot start" not in done.stderr
    wrong = yaml.safe_load(FILES["rounds/spirals.yaml"])
    wrong["experiments"]["network"]["config"] = {"widht": 8}
    documented.write(yaml.safe_dump(wrong), "spirals")
    printed = documented.call("--dry-run", name="spirals").stderr
    assert "cannot start: unknown key 'config.widht': did you mean 'width'?" in printed


def test_the_page_lists_every_public_part_of_the_library() -> None:
    from roundhouse.settings import SET_BY_JOB, Settings
    from roundhouse.training import Epoch, Run, Step

    for kind, prefix in ((Run, "run"), (Epoch, "epoch"), (Step, "step")):
        names = [name for name in vars(kind) if not name.startswith("_")]
        internal = {"results", "complete_batch", "complete_left", "leave_batches", "settle", "scaled_backward"}
        for name in set(names) - internal:
            assert f"`{prefix}.{name}" in PAGE, f"{prefix}.{name} is not described"
    keys = PAGE.partition("### Keys of the training loop")[2].partition("\n### ")[0]
    for key in set(Settings.__dataclass_fields__) - SET_BY_JOB:
        assert f"`{key}`" in keys, f"{key} is not described"
