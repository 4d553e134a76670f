"""Really trained records, shipped small: charlie_smoke and control_smoke, with outputs of some images only.

    python tests/shipped_rounds.py

makes tests/data/charlie_smoke.tar.xz again from experiments/charlie_smoke and experiments/control_smoke, which
`python runner.py --round charlie_smoke` and `--round control_smoke` train on two cores in some minutes. Kept of each
experiment: config.yaml, status.json, history.json with its other names, metrics.json, and outputs.npz of the first 100
test and 60 validation images. Weights and logs stay behind; the hashes in history.json are of files before the cut.
"""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from roundhouse.config.round import load_round

REPOSITORY = Path(__file__).resolve().parent.parent
ARCHIVE = Path(__file__).resolve().parent / "data" / "charlie_smoke.tar.xz"
ROUNDS = ("charlie_smoke", "control_smoke")
TEST_IMAGES, VALIDATION_IMAGES = 100, 60
KEPT = ("config.yaml", "history.json", "status.json", "job.json", "claim.json", "result.json", "metrics.json",
        "outputs.npz")  # fmt: skip


def unpack(folder: Path) -> tuple[Path, Path]:
    """Put the records into FOLDER/experiments and their round files into FOLDER/rounds; returns both."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "experiments", folder / "rounds"


def cut(outputs: Path) -> bytes:
    """An outputs.npz with the first images only, not compressed: xz sees then that stage3 is pooled."""
    with np.load(outputs) as saved:
        fewer = {
            name: saved[name][: VALIDATION_IMAGES if name.startswith("validation_") else TEST_IMAGES]
            for name in saved.files
        }
    buffer = io.BytesIO()
    np.savez(buffer, **fewer)
    return buffer.getvalue()


def members() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """All that is shipped, in order: equal records give an equal archive."""
    for path in sorted(found for name in ROUNDS for found in (REPOSITORY / "experiments" / name).rglob("*")):
        if path.name not in KEPT:
            continue
        member = tarfile.TarInfo(str(path.relative_to(REPOSITORY)))
        data = b""
        if path.is_symlink():
            member.type, member.linkname = tarfile.SYMTYPE, str(path.readlink())
        else:
            data = cut(path) if path.name == "outputs.npz" else path.read_bytes()
        yield member, data
    rounds = {file for name in ROUNDS for file in load_round(name, REPOSITORY / "rounds").files}
    for file in sorted(rounds):
        yield tarfile.TarInfo(f"rounds/{file.name}"), file.read_bytes()


def main() -> None:
    with (
        lzma.open(ARCHIVE, "wb", preset=9 | lzma.PRESET_EXTREME) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for member, data in members():
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
