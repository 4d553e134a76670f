"""The transfer of an attribute: measures on known outputs, classifier, cached values, old checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roundhouse.training import StudyError, checkpoint
from studies.genegan import cache, classifier, extractors, prune
from studies.genegan.cache import cached, path_of
from studies.genegan.faces import pairs
from studies.genegan.prune import Checkpoint, exploded, sound, to_delete
from studies.genegan.transfer import DIRECTIONS, measures, partners, psnr, swap

CPU = torch.device("cpu")
SIZE = 16


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# Measures. In these pictures the attribute is a bright bar at a fixed place, on a grey level that is the identity.


@dataclass(frozen=True)
class Bars:
    with_attribute: Tensor
    without_attribute: Tensor
    differs: Tensor

    @classmethod
    def make(cls, count: int) -> Bars:
        grey = torch.linspace(20, 120, count).to(torch.uint8)[:, None, None, None].expand(-1, 3, SIZE, SIZE)
        differs = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
        differs[:, 12:14, 4:12] = True
        return cls(torch.where(differs[:, None], 250, grey).to(torch.uint8), grey.contiguous(), differs)


def has_bar(images: Tensor) -> Tensor:
    return images[:, :, 12:14, 4:12].mean((1, 2, 3)) > 0.7


class Perfect:
    """Knows the bar: its background is the picture without it, and the part is the bar."""

    def split(self, images: Tensor) -> tuple[Tensor, Tensor]:
        part = torch.zeros_like(images)
        part[:, :, 12:14, 4:12] = images[:, :, 12:14, 4:12]
        background = images.clone()
        background[:, :, 12:14, 4:12] = images[:, :, :1, :1]
        return background, torch.where(part > 0.9, part, 0)

    def join(self, background: Tensor, object_part: Tensor | None, size: int) -> Tensor:
        assert background.shape[-1] == size
        return background if object_part is None else torch.where(object_part > 0, object_part, background)


class Blurred(Perfect):
    """Changes all pixels by 0.01, so its PSNR is 40 dB everywhere."""

    def join(self, background: Tensor, object_part: Tensor | None, size: int) -> Tensor:
        return super().join(background, object_part, size) + 0.01


def test_a_perfect_model_has_the_best_values_and_the_dummies_those_of_what_they_do() -> None:
    found = measures(has_bar, Perfect(), Bars.make(9), CPU, batch_size=4)
    for way in DIRECTIONS:
        assert found[f"{way}_rate"] == 1 and found[f"{way}_rate_identity"] == 0 and found[f"{way}_rate_copy"] == 1
        assert found[f"{way}_inside"] == found[f"{way}_outside"] == found[f"{way}_whole"] == 120
        assert found[f"{way}_outside_identity"] == found[f"{way}_outside_paste"] == 120
        assert found[f"{way}_inside_identity"] < 20 and found[f"{way}_outside_copy"] < 30
        assert found[f"{way}_rate_paste"] == 1
        assert found[f"{way}_inside_identity"] < found[f"{way}_whole_identity"]
    assert found["add_inside_paste"] == 120  # all bars are alike
    assert found["reconstruction_inside"] == found["reconstruction_outside"] == 120


def test_an_error_everywhere_is_the_same_inside_and_outside() -> None:
    found = measures(has_bar, Blurred(), Bars.make(5), CPU, batch_size=2)
    places = [f"{way}_{place}" for way in (*DIRECTIONS, "reconstruction") for place in ("inside", "outside", "whole")]
    assert [found[name] for name in places] == pytest.approx([40] * len(places), abs=1e-3)


@given(st.integers(2, 50))
def test_each_face_is_given_the_attribute_of_another_one(count: int) -> None:
    order = partners(count).tolist()
    assert sorted(order) == list(range(count)) and all(k != other for k, other in enumerate(order))


def test_the_batch_size_does_not_change_the_outputs() -> None:
    bars = Bars.make(7)
    a, b = (images.float() / 255 for images in (bars.with_attribute, bars.without_attribute))
    one, other = (swap(Perfect(), a, b, batch_size) for batch_size in (2, 7))
    assert torch.equal(one.added, other.added) and torch.equal(one.removed, other.removed)
    assert torch.equal(one.with_again, a) and torch.equal(one.without_again, b)


def test_psnr_counts_only_the_region_and_only_images_that_have_one() -> None:
    truth, where = torch.zeros(3, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.bool)
    images, where[0, 0, 0], where[1] = truth.clone(), True, True
    images[0, :, 0, 0], images[1] = 0.1, 0.01
    images[2] = 1.0
    assert psnr(images, truth, where) == pytest.approx((20 + 40) / 2, abs=1e-4)
    assert psnr(images[:1], truth[:1]) == pytest.approx(20 + 10 * math.log10(16), abs=1e-4)
    assert math.isnan(psnr(images[2:], truth[2:], where[2:]))


# Classifier and small extractor. They are trained on few faces here.


@pytest.fixture
def small_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "_RECIPE", {**classifier._RECIPE, "images": 600, "held_out": 100, "steps": 60})
    monkeypatch.setattr(extractors, "_SMALL", {**extractors._SMALL, "size": 32, "images": 100, "steps": 3})


@pytest.mark.usefixtures("small_recipes")
def test_the_classifier_is_good_on_faces_that_it_has_not_seen_and_says_how_good(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    found = classifier.classifier(32, CPU, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generators belong to the run"
    assert found.accuracy > 0.85
    faces = pairs("some other faces", 100, 32)
    right = torch.cat([found(faces.with_attribute), ~found(faces.without_attribute.float() / 255)])
    assert float(right.float().mean()) == pytest.approx(found.accuracy, abs=0.12)
    again = classifier.classifier(32, CPU, tmp_path)
    assert again.accuracy == found.accuracy
    assert all(torch.equal(a, b) for a, b in zip(again.network.parameters(), found.network.parameters(), strict=True))


@pytest.mark.usefixtures("small_recipes")
def test_the_small_extractor_is_the_same_each_time_and_takes_any_size(tmp_path: Path) -> None:
    one, again = (extractors.extractor("small", CPU, tmp_path / name) for name in "ab")
    cached_one = extractors.extractor(extractors.chosen("auto", 5000), CPU, tmp_path / "a")
    images = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    assert one.weights == again.weights == cached_one.weights
    assert torch.equal(one(images), again(images)) and torch.equal(one(images), cached_one(images))
    assert one(images).shape == (3, one.dimension)
    assert [one(torch.rand(2, 3, size, size)).shape for size in (16, 32, 96)] == [(2, one.dimension)] * 3
    assert torch.equal(one(images), one((images * 255).round() / 255)), "images are rounded to 8 bits first"
    assert (one.distance_name, one.kernel_name) == ("FD (small)", "KD (small)"), "never FID"


def test_without_the_package_or_its_weights_one_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as raised:
        extractors.extractor("inception", CPU, tmp_path)
    message = str(raised.value)
    assert str(extractors.weights_path(tmp_path)) in message and "toolbox/setup.sh --data inception" in message
    assert "use extractor 'small'" in message


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = extractors.weights_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a download")
    with pytest.raises(StudyError, match="is damaged: its SHA-256 is"):
        extractors.extractor("inception", CPU, tmp_path)


# Cached values


def test_runs_that_compute_a_value_at_the_same_time_use_the_first_one(tmp_path: Path) -> None:
    def other_is_faster() -> dict[str, torch.Tensor]:
        cached(tmp_path, "statistics", {"n": 1}, lambda: {"x": torch.zeros(1)})
        return {"x": torch.ones(1)}

    assert float(cached(tmp_path, "statistics", {"n": 1}, other_is_faster)["x"]) == 0.0
    assert [one.suffix for one in tmp_path.iterdir()] == [".pth"]


def test_the_automatic_extractor_has_fewer_features_than_there_are_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert extractors.chosen("auto", 5000, tmp_path) == "small"
    monkeypatch.setattr(extractors, "_installed", lambda: True)
    extractors.weights_path(tmp_path).parent.mkdir(parents=True)
    extractors.weights_path(tmp_path).write_bytes(b"")
    assert [extractors.chosen("auto", number, tmp_path) for number in (2048, 2049)] == ["small", "inception"]
    assert extractors.chosen("inception", 10, tmp_path) == "inception"


def test_a_cached_value_is_made_once_for_each_key(tmp_path: Path) -> None:
    made = []

    def make() -> dict[str, Tensor]:
        made.append(1)
        return {"x": torch.tensor([float(len(made))])}

    keys = [{"size": 64, "data": "a"}, {"data": "a", "size": 64}, {"size": 32, "data": "a"}, {"size": 64, "data": "a"}]
    values = [float(cached(tmp_path / "deep", "statistics", key, make)["x"]) for key in keys]
    assert values == [1, 1, 2, 1]
    assert not list(tmp_path.rglob(".draft*"))


@pytest.mark.parametrize("damage", ["flipped", "empty", "half", "of another key"])
def test_a_damaged_file_is_made_again_with_a_note(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = {"n": 1}
    cached(tmp_path, "statistics", key, lambda: {"x": torch.zeros(1000)})
    path = path_of(tmp_path, "statistics", key)
    data = path.read_bytes()
    if damage == "of another key":
        cached(tmp_path, "statistics", {"n": 2}, lambda: {"x": torch.zeros(1000)})
        data = path_of(tmp_path, "statistics", {"n": 2}).read_bytes()
    flipped = bytes([*data[:700], data[700] ^ 1, *data[701:]])
    path.write_bytes({"flipped": flipped, "empty": b"", "half": data[:500], "of another key": data}[damage])
    for _ in range(2):
        assert torch.equal(cached(tmp_path, "statistics", key, lambda: {"x": torch.ones(3)})["x"], torch.ones(3))
    note = capsys.readouterr().err
    assert note.count("is made again") == 1 and str(path) in note


def test_a_folder_that_cannot_be_written_costs_only_the_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert torch.equal(cached(tmp_path / "file", "x", {}, lambda: {"x": torch.ones(1)})["x"], torch.ones(1))
    assert "the result is not kept and will be computed again" in capsys.readouterr().err
    assert torch.equal(cached(None, "x", {}, lambda: {"x": torch.ones(1)})["x"], torch.ones(1))


def test_the_digest_of_images_follows_their_content_and_shape() -> None:
    images = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4)
    assert cache.digest(images) == cache.digest(images.clone()) != cache.digest(images.flip(3))
    assert cache.digest(images) != cache.digest(images.view(3, 1, 4, 4))


# Old checkpoints

LOSSES = st.sampled_from([1.0, -2.0, 0.5, 3.0, 1e6, -1e7, math.inf, -math.inf, math.nan])


@settings(max_examples=300, deadline=None)
@given(st.lists(LOSSES, min_size=1, max_size=40), st.integers(1, 7), st.integers(1, 4), st.data())
def test_the_last_finite_checkpoint_is_never_lost(
    losses: list[float], each: int, keep: int, data: st.DataObject
) -> None:
    """Random histories of finite, exploded and non-finite losses, pruned again and again as a run goes on.

    What is sound is computed here in another way: these losses are normal up to 3, and the first one is.
    """
    losses = [1.0, *losses]
    there: list[Checkpoint] = []
    newest_sound = None
    for step in range(each, len(losses) + 1, each):
        history = [{"step": k + 1, "critic_loss": loss, "val_fd": math.nan} for k, loss in enumerate(losses[:step])]
        one = Checkpoint(f"iter_{step:06}.pth", step, sound(history))
        assert one.sound == (abs(losses[step - 1]) <= 3)
        newest_sound = one if one.sound else newest_sound
        there = data.draw(st.permutations([*there, one]))
        deleted = to_delete(there, keep)
        there = [other for other in there if other not in deleted]
        assert newest_sound is None or newest_sound in there
        assert {other.step for other in there} >= set(range(step, 0, -each)[:keep])
        assert len(there) <= keep + 1
        assert [other.step for other in deleted] == sorted(other.step for other in deleted)


def test_a_loss_has_exploded_above_a_thousand_times_its_running_median_and_stays_so() -> None:
    assert not exploded([1.0, -900.0]) and exploded([1.0, -1100.0])
    assert exploded([1.0, 2.0, *[5000.0] * 50]), "a loss that stays large does not become normal"
    assert not exploded([1.0, math.nan, 2.0]), "it has recovered"
    assert not exploded([0.0, 0.0, 1.0]), "a loss that begins at 0 has no scale yet"
    assert not exploded([]) and exploded([math.inf])


def written(folder: Path, step: int, loss: float, weight: float = 1.0) -> Path:
    history = [{"step": 1, "loss": 1.0}, {"step": step, "loss": loss}]
    path = folder / f"iter_{step:06}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {"generator": {"weight": torch.tensor([weight])}, "g": {"state": [torch.ones(1)]}}
    checkpoint.write(path, {"format": checkpoint.FORMAT, "step": step, "history": history, "parts": parts})
    return path


def test_by_hand_it_deletes_all_links_of_old_checkpoints_and_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (tmp_path / f"attempts/{attempt}/snapshots" for attempt in (9, 10))
    for step, loss, weight in [(10, 1, 1), (20, 1, 1), (30, 1, math.nan), (40, 1e9, 1), (50, math.nan, 1)]:
        written(second, step, loss, weight)
    first.mkdir(parents=True)
    (first / "iter_000010.pth").hardlink_to(second / "iter_000010.pth")
    (second / "latest.pth").symlink_to("iter_000050.pth")
    others = [second.parent / name for name in ("checkpoint.pth", "best.pth")]
    for path in others:
        path.touch()
    names = {path.name for path in second.glob("*.pth")}
    assert prune.main(["--keep", "2", "--dry-run", str(tmp_path)]) == 0
    assert {path.name for path in second.glob("*.pth")} == names
    assert capsys.readouterr().out.count("would delete") == 2
    assert prune.main(["--keep", "2", str(tmp_path)]) == 0
    assert {path.name for path in second.glob("iter*")} == {f"iter_{step:06}.pth" for step in (20, 40, 50)}
    assert not list(first.iterdir()) and all(path.exists() for path in others)
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["delete", "keep", "delete", "keep", "keep"]
    assert said[3].endswith("(not finite, or exploded)")


def test_a_file_that_cannot_be_read_is_not_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "snapshots"
    for step in (10, 20, 30):
        written(folder, step, 1.0)
    (folder / "iter_000005.pth").write_bytes(b"damaged")
    assert prune.main(["--keep", "1", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {"iter_000005.pth", "iter_000030.pth"}
    assert "not counted, and not deleted" in capsys.readouterr().err


def test_a_folder_without_kept_checkpoints_is_refused_and_keeps_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("checkpoint.pth", "best.pth", "checkpoint.prev.pth"):
        (tmp_path / name).touch()
    assert prune.main(["--keep", "1", str(tmp_path)]) == 2
    assert len(list(tmp_path.iterdir())) == 3
    assert "has no kept checkpoints (snapshots/*.pth)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        prune.main(["--keep", "0", str(tmp_path)])
