"""CelebA from a folder of the user's own: lists, crop, decoded files, what the command says; the check of a config."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rounds_for_tests import REPOSITORY

from roundhouse.training import StudyError
from studies.genegan import celeba, celeba_images, extractors, fetch
from studies.genegan.check import check
from studies.genegan.images import load, make_feed
from studies.genegan.options import Options

CPU = torch.device("cpu")
PARTS = {"train": 10, "validation": 3, "test": 3}
SMILING, YOUNG = celeba.ATTRIBUTES.index("Smiling"), celeba.ATTRIBUTES.index("Young")
CELEBA: dict[str, Any] = {
    "dataset": "celeba", "sizes": (32, 48), "batch_size": 4, "workers": 2, "evaluation_images": 2
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def value(number: int, column: int) -> int:
    """Of an attribute of the image with this number, from 1."""
    return 1 if (number + column) % 3 == 0 else -1


def draw(number: int, path: Path) -> None:
    """A grey that says which image it is, on the left; fine stripes on the right; red in the rows that are cut off."""
    pixels = np.full((218, 178, 3), 10 * number, np.uint8)
    pixels[::2, 89:], pixels[1::2, 89:] = 40, 200
    pixels[:20], pixels[198:] = (255, 0, 0), (255, 0, 0)
    Image.fromarray(pixels).save(path, quality=95, subsampling=0)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a CelebA of 16 images."""
    monkeypatch.setattr(celeba, "COUNT", 16)
    monkeypatch.setattr(celeba, "MD5", {})
    folder = tmp_path / "my data/celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    lines = ["16", " ".join(celeba.ATTRIBUTES)]
    for number, name in enumerate(celeba.image_names(), start=1):
        draw(number, folder / "img_align_celeba" / name)
        lines.append(f"{name}  " + "  ".join(str(value(number, column)) for column in range(40)))
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    parts = [part for part, count in enumerate(PARTS.values()) for _ in range(count)]
    table = "".join(f"{name} {part}\n" for name, part in zip(celeba.image_names(), parts, strict=True))
    (folder / "list_eval_partition.txt").write_text(table)
    return folder.parent


def remove_images(data: Path) -> None:
    for path in (data / "celeba/img_align_celeba").iterdir():
        path.unlink()
    (data / "celeba/img_align_celeba").rmdir()


def zipped(data: Path) -> None:
    """Replace the folder of images by the archive."""
    with zipfile.ZipFile(data / "celeba/img_align_celeba.zip", "w") as archive:
        for path in sorted((data / "celeba/img_align_celeba").iterdir()):
            archive.write(path, f"img_align_celeba/{path.name}")
    remove_images(data)


# Reading


@pytest.mark.parametrize("archived", [False, True])
def test_images_are_cropped_resized_without_aliasing_and_split_as_published(data: Path, archived: bool) -> None:
    if archived:
        zipped(data)
    first = 1
    for split, number in PARTS.items():
        images = load(Options(**CELEBA), data, split, CPU)
        for has in (True, False):
            numbers = [one for one in range(first, first + number) if (value(one, SMILING) == 1) == has]
            assert images.count(has) == len(numbers)
            found = images.batch(torch.arange(len(numbers)), has, 32) * 255
            grey = found[:, :, :, 2:13].mean((1, 2, 3))
            assert torch.allclose(grey, torch.tensor([10.0 * one for one in numbers]), atol=2)
            assert (found[:, 0] - found[:, 1]).abs().max() < 6, "the red rows are cut off"
            assert (found[:, :, 2:-2, 18:] - 120).abs().max() < 12, "stripes that are too fine become grey"
        first += number
    assert sorted(path.name for path in (data / "celeba").glob("*.npy*")) == ["celeba_32.npy"]


def test_images_are_decoded_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = load(Options(**CELEBA), data, "train", CPU).batch(torch.arange(3), True, 48)
    assert "decoding 16 images for the sizes 48" in capsys.readouterr().out
    (data / "celeba/img_align_celeba/000001.jpg").unlink()
    again = load(Options(**CELEBA), data, "train", CPU)
    assert torch.equal(again.batch(torch.arange(3), True, 48), before)
    with pytest.raises(StudyError, match="has 15 of 16 images: 000001.jpg is missing"):
        again.batch(torch.arange(3), True, 64)
    remove_images(data)
    with pytest.raises(StudyError, match="has neither img_align_celeba.zip nor img_align_celeba/"):
        again.batch(torch.arange(3), True, 64)
    assert not list((data / "celeba").glob("*.part"))


@pytest.mark.parametrize("kind", ["device", "workers"])
def test_training_on_celeba_can_be_limited_and_changes_nothing_on_disk(data: Path, kind: str) -> None:
    options = Options(**{**CELEBA, "feed": kind, "images": 7, "attribute": "Young"})
    images = load(options, data, "train", CPU)
    assert images.count(True) + images.count(False) == 7
    feed = make_feed(options, images, lambda step: [(32, 48)], seed=0)
    try:
        batch = next(feed.batches(1))
    finally:
        feed.close()
    assert batch.with_attribute[48].shape == (4, 3, 48, 48)
    halves = (
        batch.with_attribute[32][..., 2:13],
        batch.with_attribute[32][..., -13:-2],
    )  # one of them may be the stripes
    known = torch.tensor([float(one) for one in range(1, 8) if value(one, YOUNG) == 1]) * 10 / 255
    apart = torch.stack([(half.mean((1, 2, 3))[:, None] - known).abs().amin(1) for half in halves])
    assert apart.amin(0).max() < 0.01
    images.pixels(torch.arange(1), True, 32).zero_()
    before = np.load(data / "celeba/celeba_32.npy")
    images._all(32).zero_()
    assert np.array_equal(np.load(data / "celeba/celeba_32.npy"), before) and before.any()


# What can be wrong


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("list_attr_celeba.txt", "16\n", "15\n", "begins with 16 and the names"),
        ("list_attr_celeba.txt", "Smiling", "Grinning", "begins with 16 and the names"),
        ("list_attr_celeba.txt", "000003.jpg", "000033.jpg", "has a line for each of 000001.jpg to 000016.jpg"),
        ("list_attr_celeba.txt", "000003.jpg  ", "000003.jpg  1  ", "has 40 values of -1, 1 in each line"),
        ("list_eval_partition.txt", "000016.jpg 2\n", "", "has a line for each of 000001.jpg to 000016.jpg"),
        ("list_eval_partition.txt", "000016.jpg 2", "000016.jpg 3", "has 1 value of 0, 1, 2 in each line"),
        ("list_eval_partition.txt", "000016.jpg 2", "000016.jpg 0", "has the training images first"),
    ],
)
def test_a_list_that_is_not_the_published_one_is_one_error(
    data: Path, name: str, old: str, new: str, message: str
) -> None:
    path = data / "celeba" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(StudyError, match=message) as caught:
        load(Options(**CELEBA), data, "train", CPU)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_list_with_another_digest_is_an_error(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celeba, "MD5", {"list_eval_partition.txt": "0" * 32})
    with pytest.raises(StudyError, match="list_eval_partition.txt is damaged, or another file"):
        load(Options(**CELEBA), data, "train", CPU)


def test_an_image_that_is_damaged_or_not_aligned_is_named(data: Path) -> None:
    images = load(Options(**CELEBA), data, "train", CPU)
    path = data / "celeba/img_align_celeba/000007.jpg"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(StudyError, match="000007.jpg is damaged"):
        images.batch(torch.arange(1), True, 32)
    Image.new("RGB", (20, 30)).save(path)
    with pytest.raises(StudyError, match="000007.jpg has 20x30 pixels instead of 178x218"):
        images.batch(torch.arange(1), True, 32)
    assert not list((data / "celeba").glob("celeba_*"))


def test_an_archive_that_is_none_is_reported(data: Path) -> None:
    remove_images(data)
    (data / "celeba/img_align_celeba.zip").write_bytes(b"a page that says no")
    with pytest.raises(StudyError, match="img_align_celeba.zip is damaged"):
        load(Options(**CELEBA), data, "train", CPU).batch(torch.arange(1), True, 32)


def test_an_attribute_that_does_not_exist_gets_the_nearest_one(data: Path) -> None:
    with pytest.raises(StudyError, match="unknown attribute 'Smilling': did you mean 'Smiling'"):
        load(Options(**{**CELEBA, "attribute": "Smilling"}), data, "train", CPU)
    assert len(set(celeba.ATTRIBUTES)) == len(celeba.ATTRIBUTES) == 40


def test_a_set_without_images_is_an_error(data: Path) -> None:
    with pytest.raises(StudyError, match="no train image of celeba is with Smiling: use more images"):
        load(Options(**{**CELEBA, "images": 1}), data, "train", CPU)


# `toolbox/setup.sh --data celeba`


def run(data: Path, *options: str) -> int:
    return fetch.main(["celeba", "--to", str(data), *options])


def test_the_command_verifies_and_decodes_what_is_there_and_can_be_repeated(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, "--check") == 1
    assert "celeba_64.npy, the decoded images, is missing" in capsys.readouterr().err
    assert run(data) == 0
    made = {path: path.stat().st_mtime_ns for path in (data / "celeba").glob("*.npy")}
    assert sorted(path.name for path in made) == ["celeba_128.npy", "celeba_64.npy", "celeba_96.npy"]
    assert "celeba: good" in capsys.readouterr().out
    assert (run(data), run(data, "--check")) == (0, 0)
    remove_images(data)
    assert (run(data), run(data, "--check")) == (0, 0)
    assert {path: path.stat().st_mtime_ns for path in (data / "celeba").glob("*.npy")} == made


def test_decoded_images_that_are_other_ones_or_too_few_are_noticed(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data)
    path = data / "celeba/celeba_96.npy"
    good, one = path.read_bytes(), 3 * 96**2
    path.write_bytes(good[:128] + good[128 + one :] + good[128 : 128 + one])
    assert run(data, "--check") == 1
    assert "celeba_96.npy is damaged: its image 000001.jpg is another one; remove it" in capsys.readouterr().err
    path.write_bytes(good[: len(good) // 2])
    assert not celeba.is_cached(data, 96)
    assert run(data) == 0
    assert path.read_bytes() == good
    path.write_bytes(b"?" * len(good))
    with pytest.raises(StudyError, match=r"celeba_96.npy is damaged: it cannot be read .* remove it"):
        load(Options(**CELEBA), data, "train", CPU).batch(torch.arange(1), True, 96)


def test_parts_of_a_killed_process_are_removed_after_a_day(data: Path) -> None:
    old, new = (data / f"celeba/celeba_32.npy.host.{number}.part" for number in (1, 2))
    for path in (old, new):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    celeba_images.prepare(data, [32])
    assert not old.exists() and new.exists()


def script(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPOSITORY / "toolbox/setup.sh", "--data", *arguments],
        env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_without_the_files_the_command_says_where_to_get_them_and_where_to_put_them(tmp_path: Path) -> None:
    done = script("celeba", "--to", tmp_path / "my data")
    assert done.returncode == 1
    assert "Multimedia Laboratory of the Chinese University of Hong Kong" in done.stderr
    assert f"into {tmp_path / 'my data/celeba'}, and run" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_data_sets_of_several_studies_are_not_fetched_by_one_call() -> None:
    done = script("celeba", "digits")
    assert done.returncode == 2
    assert "several studies (celeba: genegan, digits: distillation)" in done.stderr


# The weights of the standard network


def test_weights_are_downloaded_once_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "published"
    weights.write_bytes(b"weights")
    monkeypatch.setattr(extractors, "URL", weights.as_uri())
    monkeypatch.setattr(extractors, "SHA256", hashlib.sha256(b"weights").hexdigest())
    command = ["inception", "--to", str(tmp_path / "data")]
    assert fetch.main([*command, "--check"]) == 1
    assert "are missing: run on a login node: toolbox/setup.sh --data inception" in capsys.readouterr().err
    assert fetch.main(command) == 0
    weights.unlink()
    assert fetch.main(command) == 0, "the file that is there is used"
    path = extractors.weights_path(tmp_path / "data")
    assert f"inception: good, in {path}" in capsys.readouterr().out
    path.write_bytes(b"other")
    assert fetch.main(command) == 1
    assert f"{path} is damaged: its SHA-256 is" in capsys.readouterr().err
    path.unlink()
    assert fetch.main(command) == 1
    assert "the download failed" in capsys.readouterr().err and not path.exists()


def test_weights_with_another_digest_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "published"
    weights.write_bytes(b"other")
    monkeypatch.setattr(extractors, "URL", weights.as_uri())
    assert fetch.main(["inception", "--to", str(tmp_path)]) == 1
    assert "copy it" in capsys.readouterr().err
    assert not extractors.weights_path(tmp_path).exists()


# The check before a submission


def test_a_config_whose_data_are_missing_is_refused(data: Path, tmp_path: Path) -> None:
    config = {"dataset": "celeba", "sizes": [64]}
    check(config, data)
    check({"dataset": "faces"}, None)
    with pytest.raises(StudyError, match="list_attr_celeba.txt is missing"):
        check(config, tmp_path / "nothing")
    celeba_images.prepare(data, [64])
    remove_images(data)
    check(config, data)
    with pytest.raises(StudyError, match="has neither img_align_celeba.zip nor img_align_celeba/"):
        check({**config, "sizes": [64, 128]}, data)
    with pytest.raises(StudyError, match="did you mean 'Eyeglasses'"):
        check({**config, "attribute": "Eyeglases"}, data)
