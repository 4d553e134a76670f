"""Data sets: reading their real formats, reporting what is missing or damaged, splitting and normalising."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from rounds_for_tests import REPOSITORY
from small_data_sets import NAMES, Published, publish

from roundhouse.training import StudyError
from studies.distillation import data, sources
from studies.distillation.data import LOADERS, Dataset, Loader, Split, cut, load, ranked
from studies.distillation.fetch import fetch

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=NAMES)
def small(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """Each data set, small, as it lies in the data folder when it is fetched."""
    published = publish(request.param, tmp_path / "data", monkeypatch)
    fetch(request.param, published.folder)
    return published


def sorted_images(*splits: Split) -> list[bytes]:
    return sorted(
        bytes([label]) + image.numpy().tobytes()
        for one in splits
        for image, label in zip(one.images, one.labels.tolist(), strict=True)
    )


def random_split(count: int, shape: tuple[int, ...] = (3, 8, 8), seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return Split(images, torch.randint(0, 10, (count,), generator=generator))


def one_of(name: str, *parts: Split) -> Dataset:
    return Dataset(name, parts[0], parts[0], parts[0], classes=10, shift=1, flip=False)


# Reading


def test_each_image_and_label_is_read_as_it_was_published(small: Published) -> None:
    found = load(small.name, small.folder, validation_images=3)
    assert found.train.images.dtype == torch.uint8
    assert found.train.labels.dtype == torch.int64
    assert len(found.validation) == 3
    published = [Split(torch.tensor(images), torch.tensor(labels)) for images, labels in (small.train, small.test)]
    assert sorted_images(found.train, found.validation) == sorted_images(published[0])
    assert torch.equal(found.test.images, published[1].images)
    assert torch.equal(found.test.labels, published[1].labels)
    assert found.image_shape == published[0].images.shape[1:]


def test_the_digit_0_of_svhn_has_label_0_and_its_images_are_never_mirrored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch("svhn", publish("svhn", tmp_path, monkeypatch).folder)
    found = load("svhn", tmp_path, validation_images=0)
    assert sorted(set(found.train.labels.tolist())) == list(range(10))
    assert not found.flip


def test_what_networks_must_know_of_each_data_set() -> None:
    assert {name: one.classes for name, one in LOADERS.items()} == {
        "cifar10": 10, "cifar100": 100, "svhn": 10, "tinyimagenet": 200, "digits": 10,
    }  # fmt: skip
    assert {name for name, one in LOADERS.items() if one.flip} == {"cifar10", "cifar100", "tinyimagenet"}
    assert {name: one.shift for name, one in LOADERS.items() if one.shift != 4} == {"digits": 1}
    assert set(LOADERS) == set(sources.SOURCES)


def test_a_name_that_no_data_set_has_is_answered_with_the_nearest() -> None:
    for ask in (lambda: load("cifar_10", None), lambda: sources.missing("cifar_10", None)):
        with pytest.raises(StudyError, match="unknown dataset 'cifar_10': did you mean 'cifar10'"):
            ask()


# What is missing or damaged


def test_digests_are_those_that_torchvision_knows() -> None:
    known = {file.path: file.md5 for source in sources.SOURCES.values() for file in (*source.files, *source.downloads)}
    for reader in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        assert known[reader.filename] == reader.tgz_md5
        meta = [reader.meta["filename"], reader.meta["md5"]]
        for path, digest in [*reader.train_list, *reader.test_list, meta]:
            assert known[f"{reader.base_folder}/{path}"] == digest
    for split in ("train", "test"):
        url, path, digest = torchvision.datasets.SVHN.split_list[split]
        assert known[path] == digest
        assert url in {file.url for file in sources.SOURCES["svhn"].downloads}


def test_a_data_set_that_is_there_misses_nothing(small: Published) -> None:
    assert sources.missing(small.name, small.folder) == ""
    assert sources.damaged(small.name, small.folder) == ""


def test_digits_are_never_missing(tmp_path: Path) -> None:
    assert sources.missing("digits", tmp_path / "nowhere") == ""


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_data_set_is_reported_with_its_folder_and_the_command(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    reported = sources.missing(name, folder)
    assert str(folder / sources.SOURCES[name].files[0].path) in reported
    assert "is missing" in reported
    assert f"toolbox/setup.sh --data {name} --to '{folder}'" in reported
    assert reported.count("\n") == 0
    with pytest.raises(StudyError) as caught:
        load(name, folder)
    assert str(caught.value) == reported


def test_without_a_folder_the_repository_s_own_is_meant() -> None:
    assert sources.data_directory(None) == REPOSITORY / "data"
    assert sources.data_directory(Path("/elsewhere")) == Path("/elsewhere")


def test_the_command_names_no_folder_where_none_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "data_directory", lambda data: tmp_path)
    assert sources.missing("svhn", None).endswith("toolbox/setup.sh --data svhn")


def test_each_file_that_is_missing_is_noticed_by_a_quick_check(small: Published) -> None:
    for file in sources.SOURCES[small.name].files:
        path = small.folder / file.path
        aside = path.rename(small.folder / "aside")
        assert str(path) in sources.missing(small.name, small.folder)
        with pytest.raises(StudyError, match="is missing"):
            load(small.name, small.folder)
        aside.rename(path)


def test_a_file_cut_short_is_noticed_by_a_quick_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch("cifar100", publish("cifar100", tmp_path, monkeypatch).folder)
    path = tmp_path / "cifar-100-python/train"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path} has {path.stat().st_size} bytes instead of" in sources.missing("cifar100", tmp_path)


def test_a_flipped_bit_in_any_file_is_reported_with_the_file(small: Published) -> None:
    for file in sources.SOURCES[small.name].files:
        path = small.folder / file.path
        good = path.read_bytes()
        for place in (0, len(good) // 2):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            assert sources.missing(small.name, small.folder) == "", "a quick check reads nothing"
            with pytest.raises(StudyError, match="is damaged: .*toolbox/setup.sh --data") as caught:
                load(small.name, small.folder)
            assert str(path).removesuffix(".sha256") in str(caught.value)
        path.write_bytes(good)
    load(small.name, small.folder, validation_images=1)


def test_a_folder_where_a_file_should_be_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch("tinyimagenet", publish("tinyimagenet", tmp_path, monkeypatch).folder)
    (tmp_path / "tinyimagenet.npz").unlink()
    (tmp_path / "tinyimagenet.npz").mkdir()
    with pytest.raises(StudyError, match=r"tinyimagenet.npz cannot be read: Is a directory"):
        load("tinyimagenet", tmp_path)


def test_good_files_that_cannot_be_read_are_reported_without_a_traceback(
    small: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when their digests are right, and the package that reads them is not."""

    def fail(*arguments: object, **options: object) -> None:
        raise ValueError("no such format")

    monkeypatch.setattr("pickle.load", fail)
    monkeypatch.setattr("scipy.io.loadmat", fail)
    monkeypatch.setattr("numpy.load", fail)
    with pytest.raises(StudyError, match=rf"{small.name}.* cannot be read \(ValueError: no such format\)"):
        load(small.name, small.folder)


def test_a_package_that_is_not_installed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(StudyError, match="'digits' is read with a package that cannot be imported: .*sklearn"):
        load("digits", None)


def test_checking_a_data_set_in_the_runner_loads_nothing_heavy() -> None:
    code = "from studies.distillation import sources; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {"torch", "torchvision", "numpy", "sklearn"} & set(done.stdout.split())


# The split


def test_images_are_split_without_loss_or_overlap(tmp_path: Path) -> None:
    """Each of the digits is in exactly one part."""
    found = load("digits", None)
    assert [len(one) for one in (found.train, found.validation, found.test)] == [1200, 237, 360]
    (whole,) = LOADERS["digits"].read(None)
    assert sorted_images(found.train, found.validation, found.test) == sorted_images(whole)


def test_the_split_of_the_digits_is_fixed() -> None:
    found = load("digits", None)
    digests = [hashlib.sha256(one.images.numpy().tobytes()).hexdigest()[:12] for one in (found.train, found.test)]
    assert digests == ["aeb04bba01d6", "91661541afa5"]


def test_the_order_is_that_of_digests_of_name_and_index() -> None:
    whole = random_split(50)
    places = sorted(range(50), key=lambda index: hashlib.sha256(f"letters {index}".encode()).hexdigest())
    assert torch.equal(ranked("letters", whole).images, whole.images[places])
    assert not torch.equal(ranked("numbers", whole).images, whole.images[places])


def test_more_validation_images_are_those_kept_before_and_others(small: Published) -> None:
    few, many = (load(small.name, small.folder, kept).validation for kept in (2, 4))
    assert torch.equal(many.images[-2:], few.images)
    assert torch.equal(many.labels[-2:], few.labels)


def test_without_validation_images_all_are_for_training(small: Published) -> None:
    found = load(small.name, small.folder, 0)
    assert len(found.validation) == 0
    assert len(found.train) == len(small.train[1])


def test_how_many_are_kept_back_by_default_is_the_data_set_s_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = random_split(30), random_split(5, seed=1)
    monkeypatch.setitem(LOADERS, "letters", Loader(lambda folder: parts, classes=10, validation=7))
    assert [len(one) for one in (load("letters", None).train, load("letters", None).validation)] == [23, 7]
    assert {name: one.validation for name, one in LOADERS.items() if name != "letters"} == {
        "cifar10": 5000, "cifar100": 5000, "svhn": 5000, "tinyimagenet": 10000, "digits": 237,
    }  # fmt: skip


@pytest.mark.parametrize("kept", [-1, 1437, 5000])
def test_more_validation_images_than_there_are_is_an_error(kept: int) -> None:
    with pytest.raises(StudyError, match=f"'validation_images' is {kept}; digits has 1437 images"):
        load("digits", None, kept)


# Tensors


def test_normalised_training_images_have_mean_0_and_deviation_1_per_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_AT_ONCE", 7)  # so that several portions are counted
    whole = random_split(40)
    whole.images[:, 1] //= 5
    found = one_of("letters", whole).normalise(whole.images)
    assert found.dtype == torch.float32
    assert found.shape == whole.images.shape
    assert found.double().mean((0, 2, 3)).abs().max() < 1e-6
    assert (found.double().std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6


def test_mean_and_deviation_are_exact() -> None:
    whole = random_split(100)
    mean, deviation = one_of("letters", whole).scale
    pixels = whole.images.double()
    assert torch.allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    assert torch.allclose(deviation, pixels.std((0, 2, 3), correction=0), rtol=1e-12)


def test_only_training_images_decide_how_all_are_normalised() -> None:
    parts = [random_split(20, seed=seed) for seed in range(3)]
    found = Dataset("letters", *parts, classes=10, shift=1, flip=False)
    other = Dataset("letters", parts[0], parts[2], parts[1], classes=10, shift=1, flip=False)
    assert torch.equal(found.normalise(parts[1].images), other.normalise(parts[1].images))


def test_normalising_leaves_images_as_they_were_and_keeps_their_layout() -> None:
    whole = random_split(10)
    before = whole.images.clone()
    images = whole.images.contiguous(memory_format=torch.channels_last)
    assert one_of("letters", whole).normalise(images).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_figures_are_computed_and_moved_once() -> None:
    """A CUDA graph can hold the later calls: they make nothing new on the CPU."""
    found = one_of("letters", random_split(10))
    first = found.normalise(found.train.images)
    scale = found._scales[CPU]
    assert torch.equal(found.normalise(found.train.images), first)
    assert found._scales[CPU] is scale
    assert len(found._scales) == 1


def test_a_data_set_moves_to_another_device_unchanged() -> None:
    parts = [random_split(20, seed=seed) for seed in range(3)]
    found = Dataset("letters", *parts, classes=10, shift=3, flip=True)
    moved = found.to(torch.device("meta"))
    assert {one.images.device.type for one in (moved.train, moved.validation, moved.test)} == {"meta"}
    assert (moved.name, moved.classes, moved.shift, moved.flip) == ("letters", 10, 3, True)
    assert found.train.images.device == CPU


def test_a_split_counts_its_own_bytes_only() -> None:
    first, last = cut(random_split(10), 4)
    assert (len(first), len(last)) == (6, 4)
    assert last.nbytes == 4 * (3 * 8 * 8 + 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_normalising_can_be_captured_in_a_cuda_graph() -> None:
    device = torch.device("cuda")
    found = one_of("letters", random_split(10))
    images = found.train.images.to(device)
    expected = found.normalise(images)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = found.normalise(images)
    graph.replay()
    assert torch.equal(captured, expected)
    assert torch.allclose(captured.cpu(), found.normalise(found.train.images), atol=1e-6)
