"""Names of the study that the analysis shows: architectures, sets, splits, and the keys that stage B tunes."""

from __future__ import annotations

ARCHITECTURES = {
    "02": "plain convolutions",
    "03": "simplified UNet",
    "04": "convolutions with attention",
    "05": "classic UNet",
    "07": "encoder-decoder with attention",
    "08": "residual UNet",
    "09": "large convolutions",
}
DOCUMENT_FOUR = ("03", "04", "05", "07")
"""The architectures that the document trains on the big set."""

SETS = ("small", "big")
SPLITS = ("train", "validation", "test")
TUNED_KEYS = ("lr", "width", "attention", "downsampler", "last")
BIG_TEST = ("big", "test")
"""Set and split by which architectures and the coarse solver are compared."""

PERSISTENCE = "persistence"
"""The prediction that nothing changes, whose relative absolute error is 1."""

RING = "ring alone"
"""The prediction that interpolates the change on the ring, which is an input of the networks."""

RAE = "RAE: sum |y - p| / sum |y| of a sample, y the true and p the predicted change of depth; persistence has 1."


def architecture_name(code: str) -> str:
    """`05 classic UNet`."""
    return f"{code} {ARCHITECTURES[code]}" if code in ARCHITECTURES else code
