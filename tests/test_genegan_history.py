"""Kept checkpoints of a GeneGAN run: whatever its losses do, the newest sound one is there, and `latest` names one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import digest, train, with_settings

from roundhouse.training import checkpoint, read_weights
from studies.genegan import classifier, extractors, prune
from studies.genegan.checkpoints import LATEST, MAIN, kept_so_far, name_of
from studies.genegan.options import Options
from studies.genegan.prune import to_delete
from studies.genegan.train import train as train_genegan

NORMAL = 3.0  # these losses are normal up to here, since the first one is 1
LOSSES = st.sampled_from([1.0, -2.0, 0.5, NORMAL, 1e6, -1e7, math.inf, -math.inf, math.nan])
HISTORIES = st.lists(st.tuples(LOSSES, LOSSES, st.booleans()), min_size=1, max_size=25)
"""Losses of critics and generator in a row, and whether the run is evaluated there, and keeps a checkpoint."""


def history_of(rows: list[tuple[float, float, bool]]) -> list[dict[str, Any]]:
    """After a first row that is normal."""
    found: list[dict[str, Any]] = [{"step": 1, "critic_loss": 1.0, "generator_loss": 1.0}]
    for step, (critic, generator, evaluated) in enumerate(rows, 2):
        row = {"step": step, "critic_loss": critic, "generator_loss": generator}
        found.append({**row, MAIN: 10.0 / step} if evaluated else row)
    return found


def is_normal(row: dict[str, Any]) -> bool:
    return abs(row["critic_loss"]) <= NORMAL and abs(row["generator_loss"]) <= NORMAL


@settings(max_examples=50, deadline=None)
@given(HISTORIES, st.integers(1, 4))
def test_a_run_that_deletes_as_it_goes_never_loses_its_newest_sound_checkpoint(
    rows: list[tuple[float, float, bool]], keep: int
) -> None:
    """After each evaluation the run asks its whole history; what it deleted before is gone for ever."""
    whole = history_of(rows)
    there: set[str] = set()
    newest_sound: str | None = None
    newest: list[str] = []
    for end, row in enumerate(whole, 1):
        if MAIN not in row:
            continue
        name = name_of(row["step"])
        there.add(name)
        newest.append(name)
        newest_sound = name if is_normal(row) else newest_sound
        found = kept_so_far(whole[:end])
        assert found[-1].sound == is_normal(row)
        there -= {one.name for one in to_delete(found, keep)}
        assert newest_sound is None or newest_sound in there
        assert set(newest[-keep:]) <= there
        assert len(there) <= keep + 1


@settings(max_examples=50, deadline=None)
@given(rows=HISTORIES, keep=st.integers(1, 4), bad=st.lists(st.booleans(), min_size=25, max_size=25))
def test_prune_by_hand_never_deletes_the_newest_sound_checkpoint(
    rows: list[tuple[float, float, bool]], keep: int, bad: list[bool], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On real files, once with all of them and once after each new one; `bad`: files whose weights are not finite."""
    whole = history_of(rows)
    at_once, step_by_step = (tmp_path_factory.mktemp(name) / "snapshots" for name in ("at_once", "step_by_step"))
    newest_sound: str | None = None
    newest: list[str] = []
    for end, row in enumerate(whole, 1):
        if MAIN not in row:
            continue
        name, weight = f"{name_of(row['step'])}.pth", math.nan if bad[end - 2] else 1.0
        parts = {"generator": {"weight": torch.tensor([weight])}}
        content = {"format": checkpoint.FORMAT, "step": row["step"], "history": whole[:end], "parts": parts}
        for folder in (at_once, step_by_step):
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(checkpoint.pack(content))
        newest.append(name)
        newest_sound = name if is_normal(row) and not bad[end - 2] else newest_sound
        assert prune.main(["--keep", str(keep), str(step_by_step)]) == 0
        assert_kept(step_by_step, newest, newest_sound, keep)
    if newest:
        assert prune.main(["--keep", str(keep), str(at_once)]) == 0
        assert_kept(at_once, newest, newest_sound, keep)


def assert_kept(folder: Path, names: list[str], newest_sound: str | None, keep: int) -> None:
    wanted = {*names[-keep:], *([newest_sound] if newest_sound else [])}
    assert {path.name for path in folder.iterdir()} == wanted


# A real run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def small_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    recipe = {"size": 32, "images": 100, "steps": 3, "features": 8}
    monkeypatch.setattr(extractors, "_SMALL", {**extractors._SMALL, **recipe})
    monkeypatch.setattr(classifier, "_RECIPE", {**classifier._RECIPE, "images": 100, "held_out": 20, "steps": 3})


OPTIONS = Options(
    sizes=(32,), width=4, images=24, batch_size=2, iterations=9, save_every=2, log_every=1, feed="device",
    evaluation_images=20, extractor="small", boost_every=4, boost_steps=2,
)  # fmt: skip


@pytest.mark.parametrize("stop_at", [None, 5])
def test_latest_names_a_kept_checkpoint_after_each_save(tmp_path: Path, data: Path, stop_at: int | None) -> None:
    """And the run keeps the newest two; one that is stopped between two evaluations, and resumed, does so, too."""
    here, seen = tmp_path / "1", []

    class Reports(list[dict[str, Any]]):
        def append(self, report: dict[str, Any]) -> None:
            pointer = here / "kept" / LATEST
            if pointer.exists():
                kept = {path.name for path in (here / "snapshots").iterdir()}
                name = pointer.read_text().strip()
                assert name in kept and read_weights(here / "snapshots" / name)["step"] == int(name[5:-4])
                assert name == max(kept)
                seen.append((report["step"], name, len(kept)))
            super().append(report)

    def go(directory: Path, earlier: tuple[Path, ...], stop: int | None) -> bool:
        nonlocal here
        here = directory
        study = lambda run: train_genegan(run, OPTIONS, {}, data)  # noqa: E731
        return train(here, study, with_settings(seed=1), earlier, stop_at=stop, reports=Reports()).finished

    if stop_at is not None:
        assert not go(tmp_path / "1", (), stop_at)
    assert go(tmp_path / "2", (tmp_path / "1",) if stop_at else (), None)
    names = {step: name for step, name, _ in seen}
    assert names[4] == "iter_000004.pth" and names[8] == "iter_000008.pth" and names[9] == "iter_000009.pth"
    assert all(count <= 2 for step, _, count in seen if step > 2)
    saved = read_weights(here / "checkpoint.pth")["kept"]
    assert {name for name in saved if name.startswith("snapshots/")} == {
        "snapshots/iter_000008.pth", "snapshots/iter_000009.pth",
    }  # fmt: skip
    assert all(digest(here / name) == hashed for name, hashed in saved.items())
    samples = {path.name for path in (here / "kept/samples").iterdir()}
    assert samples == {f"iter_{step:06}.png" for step in (2, 4, 6, 8, 9)}
