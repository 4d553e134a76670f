"""Evaluation and samples of a checkpoint by hand, with tiny networks that are not trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from roundhouse.training import StudyError, checkpoint
from studies.genegan import classifier, evaluate, extractors, images, sample
from studies.genegan.evaluation import Evaluation, Setting
from studies.genegan.loading import config_of, load_generator
from studies.genegan.networks import Generator
from studies.genegan.options import Options

CPU = torch.device("cpu")
OPTIONS = Options(sizes=(32,), width=8, evaluation_images=24, extractor="small")


@pytest.fixture(autouse=True)
def small_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    recipe = {"size": 32, "images": 100, "steps": 3, "features": 8}
    monkeypatch.setattr(extractors, "_SMALL", {**extractors._SMALL, **recipe})
    monkeypatch.setattr(classifier, "_RECIPE", {**classifier._RECIPE, "images": 100, "held_out": 20, "steps": 3})


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(OPTIONS)


@pytest.fixture
def best(generator: Generator, tmp_path: Path) -> Path:
    path = tmp_path / "best.pth"
    checkpoint.write(path, {"generator": generator.state_dict(), "config": config_of(OPTIONS)})
    return path


def setting(**changes: object) -> Setting:
    values = {"dataset": "faces", "attribute": "Smiling", "split": "validation", "size": 32, "images": 24}
    return Setting(**{**values, "extractor": "small", **changes})  # type: ignore[arg-type]


def test_a_checkpoint_is_evaluated_and_the_file_says_what_the_figures_follow_from(
    best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep/fd.json"
    arguments = ["--checkpoint", best, "--attribute", "Smiling", "--data", tmp_path, "--size", "32", "--n", "30"]
    more = ["--batch-size", "8", "--workers", "1", "--device", "cpu", "--out", out]
    assert evaluate.main([str(one) for one in arguments + more]) == 0
    found = json.loads(out.read_text())
    expected = {"images": 30, "split": "test", "extractor": "small", "fd": "FD (small)", "size": 32, "step": None}
    assert {name: found[name] for name in expected} == expected
    for way in ("add", "remove"):
        assert found[f"{way}_fd_low"] <= found[f"{way}_fd"] <= found[f"{way}_fd_high"]
        assert found[f"{way}_fd"] > found[f"{way}_fd_floor"] > found[f"{way}_fd_copy"] == pytest.approx(0, abs=1e-6)
        assert 0 <= found[f"{way}_rate"] <= 1 and found[f"{way}_inside"] < found[f"{way}_inside_identity"]
    assert "fd: FD (small), kd: KD (small), N 30, test images, 32 pixels" in capsys.readouterr().out


def test_the_figures_depend_neither_on_the_batch_size_nor_on_the_mode_nor_on_the_cache(
    generator: Generator, tmp_path: Path
) -> None:
    split = images.load(OPTIONS, None, "validation", CPU)
    found = []
    for size, folder in ((5, "a"), (24, "a"), (24, "b")):
        generator.train(size == 5)
        one = Evaluation(setting(batch_size=size), split, tmp_path / folder, CPU)
        found.append({**one.distances(generator), **one.dummies(), **one.transfer(generator)})
        assert generator.training == (size == 5)
    assert found[1] == found[2]
    assert found[0] == pytest.approx(found[1], rel=1e-3, abs=1e-3)


def test_more_images_than_there_are_is_refused(tmp_path: Path) -> None:
    split = images.load(OPTIONS, None, "validation", CPU)
    with pytest.raises(StudyError, match="needs 25 validation images with Smiling .* there are 24"):
        Evaluation(setting(images=25), split, tmp_path, CPU)


def test_a_kept_checkpoint_is_loaded_with_its_step(generator: Generator, tmp_path: Path) -> None:
    path = tmp_path / "iter_000020.pth"
    parts = {"generator": generator.state_dict(), "config": config_of(OPTIONS), "g": {}}
    checkpoint.write(path, {"format": checkpoint.FORMAT, "step": 20, "parts": parts})
    found = load_generator(path, CPU)
    assert (found.step, found.options, found.generator.training) == (20, OPTIONS, False)
    assert all(torch.equal(a, b) for a, b in zip(found.generator.parameters(), generator.parameters(), strict=True))


@pytest.mark.parametrize("command", [evaluate.main, sample.main], ids=["evaluate", "sample"])
@pytest.mark.parametrize("content", [None, b"damaged", {"other": torch.ones(1)}], ids=["missing", "damaged", "other"])
def test_a_file_without_a_generator_is_one_error(
    command: object, content: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "best.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        checkpoint.write(path, content)
    image = ["--image", str(tmp_path / "x.png")] if command is sample.main else []
    assert command(["--checkpoint", str(path), "--device", "cpu", *image]) == 1  # type: ignore[operator]
    assert str(path) in capsys.readouterr().err


def test_a_device_that_does_not_exist_is_one_error(best: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--checkpoint", str(best), "--device", "gpu"]) == 1
    assert "--device gpu: " in capsys.readouterr().err


def test_pictures_of_ones_own_are_exchanged_in_a_grid(best: Path, tmp_path: Path, generator: Generator) -> None:
    paths = [tmp_path / "wide.jpg", tmp_path / "high.png"]
    Image.new("RGB", (90, 40), (200, 30, 30)).save(paths[0])
    Image.new("L", (40, 70), 99).save(paths[1])
    out = tmp_path / "made/grid.png"
    command = ["--checkpoint", best, "--image", paths[0], "--image", paths[1], "--out", out, "--device", "cpu"]
    assert sample.main([str(one) for one in command]) == 0
    with Image.open(out) as image:
        assert image.size == (5 * 32, 2 * 32)
        assert image.getpixel((16, 48)) == (99, 99, 99)
    inputs = torch.stack([sample.read_image(path, 32) for path in paths])
    rows = sample.rows_of(generator.eval(), inputs)
    assert torch.equal(rows[:, 0], inputs)
    for k in range(2):
        assert torch.allclose(rows[k, 1], rows[k, 3 + k], atol=1e-5), "its own attribute reconstructs it"


def test_a_file_that_is_no_image_is_one_error(best: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample.main(["--checkpoint", str(best), "--image", str(best), "--device", "cpu"]) == 1
    assert f"--image {best}: it cannot be read as an image" in capsys.readouterr().err
