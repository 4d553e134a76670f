"""The data of the study genegan: procedural faces, CelebA from a folder, batches of both, the check of a config."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from studies.genegan import faces

NONE = torch.zeros(24, dtype=torch.bool)


# Procedural faces


@pytest.mark.parametrize("size", [32, 48])
def test_a_face_follows_from_its_split_and_its_number_alone(size: int) -> None:
    many = faces.draw("train", 24, size, NONE)
    assert torch.equal(faces.draw("train", 5, size, NONE[:5]), many[:5])
    assert not torch.equal(faces.draw("test", 5, size, NONE[:5]), many[:5])
    assert many.dtype == torch.uint8 and many.shape == (24, 3, size, size)
    assert len(many.flatten(1).unique(dim=0)) == 24


def test_only_the_mouth_differs_between_a_smiling_face_and_the_same_face() -> None:
    found = faces.pairs("test", 24, 32)
    apart = (found.with_attribute.int() - found.without_attribute.int()).abs().amax(1)
    assert apart[~found.differs].max() <= 8
    assert (apart > 40).any(2).any(1).all(), "each smile can be seen"
    share = found.differs.float().mean((1, 2))
    assert share.min() > 0.01 and share.max() < 0.12
    assert not found.differs[:, :16].any(), "the mouth is in the lower half"
    assert torch.equal(found.with_attribute[3], faces.draw("test", 24, 32, torch.arange(24) == 3)[3])


def test_a_smile_has_its_corners_up_and_there_are_many_curves_in_each_class() -> None:
    """The reddest rows of a mouth's corners are above that of its middle, in one class only."""
    for smiling in (True, False):
        drawn = faces.draw("train", 24, 128, torch.full((24,), smiling)).float() / 255
        upright = faces.factors("train", 24)["tilt"].abs() < 0.05
        rises = []
        for index in upright.nonzero().flatten().tolist():
            factors = {name: value[index] for name, value in faces.factors("train", 24).items()}
            centre = 64 * (1 + factors["right"])
            reach = 0.8 * 64 * factors["head"] * factors["mouth"]
            lower = drawn[index, 0] - drawn[index, 1]
            top = int(64 * (1 + factors["down"] + factors["head"] * 0.3))
            chin = int(64 * (1 + factors["down"] + factors["head"] * 0.95))
            rows = [lower[top:chin, int(centre + side * reach)].argmax() for side in (-1, 0, 1)]
            rises.append(float(rows[1] - (rows[0] + rows[2]) / 2))
        assert len(set(rises)) > 2
        assert (min(rises) > 1.5) if smiling else (max(rises) < 1.5), rises


def test_a_larger_face_is_the_same_face_with_more_detail() -> None:
    small, large = (faces.draw("train", 8, size, NONE[:8]).float() for size in (32, 128))
    assert (F.avg_pool2d(large, 4) - small).abs().mean() < 2.0, "anti-aliased: a pixel is the mean of its area"
    up = F.interpolate(small, size=128, mode="bilinear")
    assert (large - up).abs().mean() > 3 * (F.avg_pool2d(large, 4) - small).abs().mean()
