"""Checkpoint files: corruption is detected before anything is unpickled, and the previous checkpoint stays valid."""

from __future__ import annotations

import errno
import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.training import checkpoint, read_weights
from roundhouse.training.checkpoint import CorruptFile, newest, pack, save, unpack

CONTENT = {
    "step": 3,
    "parts": {"weights": torch.arange(6000, dtype=torch.float32), "lr": 0.1},
    "history": [{"a": 1.0}],
}
PACKED = pack(CONTENT)
SMALL = pack({"step": 1})


def content(step: int) -> dict[str, Any]:
    return {**CONTENT, "step": step}


def steps_of(found: checkpoint.Found | None) -> int | None:
    return found.content["step"] if found else None


def test_unpack_returns_the_packed_content() -> None:
    back = unpack(PACKED)
    assert torch.equal(back["parts"]["weights"], CONTENT["parts"]["weights"])  # type: ignore[index]
    assert back["history"] == CONTENT["history"]


def test_plain_torch_load_and_zip_tools_open_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(PACKED)
    assert torch.load(path, weights_only=True)["step"] == 3
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert len(archive.comment) == 64


def test_a_file_truncated_at_any_byte_is_corrupt() -> None:
    for length in range(len(SMALL)):
        with pytest.raises(CorruptFile):
            unpack(SMALL[:length])


def test_a_small_file_with_any_byte_changed_is_corrupt() -> None:
    for offset in range(len(SMALL)):
        changed = bytearray(SMALL)
        changed[offset] ^= 1 << (offset % 8)
        with pytest.raises(CorruptFile):
            unpack(bytes(changed))


@settings(deadline=None)
@given(st.integers(0, len(PACKED) - 1), st.integers(0, 7))
def test_a_file_with_one_flipped_bit_is_corrupt(offset: int, bit: int) -> None:
    changed = bytearray(PACKED)
    changed[offset] ^= 1 << bit
    with pytest.raises(CorruptFile):
        unpack(bytes(changed))


@pytest.mark.parametrize("page", range(len(PACKED) // 4096 + 1))
def test_a_file_with_a_zeroed_page_is_corrupt(page: int) -> None:
    changed = bytearray(PACKED)
    part = changed[page * 4096 : (page + 1) * 4096]
    changed[page * 4096 : (page + 1) * 4096] = bytes(len(part))
    with pytest.raises(CorruptFile):
        unpack(bytes(changed))


def test_a_file_with_bytes_after_its_end_is_corrupt() -> None:
    with pytest.raises(CorruptFile):
        unpack(PACKED + b"\0")


def test_torch_load_alone_does_not_detect_a_changed_byte(tmp_path: Path) -> None:
    changed = bytearray(PACKED)
    changed[PACKED.index(np.arange(100, 200, dtype=np.float32).tobytes())] ^= 1
    torch.load(_written(tmp_path / "x.pth", bytes(changed)), weights_only=True)
    with pytest.raises(CorruptFile):
        unpack(bytes(changed))


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("value", [np.float64(1.0), Path("x"), {1, 2}, np.zeros(2), object()])
def test_saving_refuses_a_value_that_a_safe_load_would_refuse(tmp_path: Path, value: object) -> None:
    with pytest.raises(RoundhouseError, match="/parts/inner/1"):
        save(tmp_path, {"step": 1, "parts": {"inner": [0, value]}})
    assert list(tmp_path.iterdir()) == []


def test_the_previous_checkpoint_is_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, content(step))
    assert checkpoint.read(tmp_path / "checkpoint.pth")["step"] == 3
    assert checkpoint.read(tmp_path / "checkpoint.prev.pth")["step"] == 2
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("corrupt", [b"", PACKED[:1000], PACKED[:-1], b"\0" * len(PACKED)])
def test_instead_of_a_corrupt_checkpoint_the_previous_one_is_used_with_a_warning(
    tmp_path: Path, corrupt: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, content(1))
    save(tmp_path, content(2))
    (tmp_path / "checkpoint.pth").write_bytes(corrupt)
    assert steps_of(newest(tmp_path, [])) == 1
    warnings = capsys.readouterr().err
    assert f"{tmp_path}/checkpoint.pth is not used" in warnings
    assert f"resuming from {tmp_path}/checkpoint.prev.pth" in warnings


def test_a_corrupt_checkpoint_never_replaces_a_valid_previous_one(tmp_path: Path) -> None:
    save(tmp_path, content(1))
    save(tmp_path, content(2))
    (tmp_path / "checkpoint.pth").write_bytes(PACKED[:-1])
    newest(tmp_path, [])
    save(tmp_path, content(2))
    assert checkpoint.read(tmp_path / "checkpoint.prev.pth")["step"] == 1
    assert (tmp_path / "checkpoint.pth.damaged").read_bytes() == PACKED[:-1]


def test_the_checkpoint_with_the_most_steps_of_all_attempts_is_found(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("1", "2", "3")]
    for folder, step in zip(folders, (4, 7, 5), strict=True):
        folder.mkdir()
        save(folder, content(step))
    assert steps_of(newest(folders[2], folders[:2])) == 7
    (folders[1] / "checkpoint.pth").write_bytes(b"")
    assert steps_of(newest(folders[2], folders[:2])) == 5
    assert (folders[1] / "checkpoint.pth").exists(), "another attempt's folder is only read"


def test_no_checkpoint_is_found_if_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert newest(tmp_path, [tmp_path / "gone"]) is None
    assert capsys.readouterr().err == ""


def test_the_loss_of_the_last_checkpoint_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, content(1))
    (tmp_path / "checkpoint.pth").write_bytes(b"")
    assert newest(tmp_path, []) is None
    assert "training starts from the beginning" in capsys.readouterr().err


def test_a_checkpoint_of_another_format_is_an_error_and_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(pack({"format": 99, "step": 1}))
    with pytest.raises(RoundhouseError, match="format 99"):
        newest(tmp_path, [])
    assert (tmp_path / "checkpoint.pth").exists()


def test_missing_or_corrupt_weights_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    with pytest.raises(RoundhouseError, match="cannot read .*best.pth: No such file"):
        read_weights(path)
    path.write_bytes(PACKED[:-100])
    with pytest.raises(RoundhouseError, match="best.pth is corrupted"):
        read_weights(path)


class Crash(BaseException):
    """Stands for the death of the process."""


def operations(monkeypatch: pytest.MonkeyPatch, fails: int, error: BaseException) -> list[str]:
    """Let the file operation with index `fails` of a save raise `error`; returns a list of the operations so far."""
    done: list[str] = []

    def counted(name: str) -> Any:
        real = getattr(os, name)

        def operation(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            if len(done) == fails + 1:
                raise error
            return real(*args, **kwargs)

        return operation

    for name in ("open", "fsync", "replace"):
        monkeypatch.setattr(os, name, counted(name))
    return done


OPERATIONS = ["open", "fsync", "replace", "replace", "open", "fsync"]


def test_saving_does_the_operations_that_the_crash_tests_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, content(1))
    done = operations(monkeypatch, len(OPERATIONS), Crash())
    save(tmp_path, content(2))
    assert done == OPERATIONS


@pytest.mark.parametrize("failing", range(len(OPERATIONS)))
def test_a_crash_at_any_step_of_saving_leaves_a_valid_checkpoint(
    tmp_path: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, content(1))
    save(tmp_path, content(2))
    with monkeypatch.context() as patch:
        operations(patch, failing, Crash())
        with pytest.raises(Crash):
            save(tmp_path, content(3))
    assert steps_of(newest(tmp_path, [])) == (3 if OPERATIONS[:failing].count("replace") == 2 else 2)


@pytest.mark.parametrize("failing", range(len(OPERATIONS)))
def test_a_disk_error_at_any_step_of_saving_is_reported_and_loses_nothing(
    tmp_path: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, content(2))
    with monkeypatch.context() as patch:
        operations(patch, failing, OSError(errno.EIO, os.strerror(errno.EIO)))
        with pytest.raises(RoundhouseError, match=r"checkpoint.pth: .* The previous file is unchanged"):
            save(tmp_path, content(3))
    assert steps_of(newest(tmp_path, [])) in (2, 3)
    assert not list(tmp_path.glob(".draft-*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        trouble = mounted.stderr.strip() if mounted.returncode else ""
    except OSError as error:
        trouble = str(error)
    if trouble:
        reason = f"a small tmpfs cannot be mounted: {trouble}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_reported_and_the_previous_checkpoint_still_loads(small_disk: Path) -> None:
    save(small_disk, content(1))
    save(small_disk, content(2))
    (small_disk / "rest").write_bytes(bytes(190_000))
    with pytest.raises(RoundhouseError, match="checkpoint.pth: No space left on device"):
        save(small_disk, {**content(3), "more": torch.zeros(20_000)})
    with pytest.raises(RoundhouseError, match="best.pth: No space left on device"):
        checkpoint.write(small_disk / "best.pth", {"more": torch.zeros(20_000)})
    assert sorted(path.name for path in small_disk.iterdir()) == ["checkpoint.prev.pth", "checkpoint.pth", "rest"]
    assert steps_of(newest(small_disk, [])) == 2


def test_deleting_earlier_checkpoints_removes_checkpoints_and_drafts_and_nothing_else(tmp_path: Path) -> None:
    save(tmp_path, content(1))
    save(tmp_path, content(2))
    files.write_draft(tmp_path, b"left by a kill")
    (tmp_path / "best.pth").write_bytes(b"")
    checkpoint.delete_earlier([tmp_path, tmp_path / "gone"])
    assert [path.name for path in tmp_path.iterdir()] == ["best.pth"]
