"""Study flood: one simulation by hand, its pictures, table, progress, and what happens if something is wrong."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from studies import commands
from studies.flood import floods, simulate
from studies.flood.pictures import MOST_PANELS, Shown, animation, clock, evenly, panels

REPOSITORY = Path(__file__).resolve().parent.parent
SMALL = ["--cells", "8", "--hours", "0.1", "--snapshot-minutes", "2"]
COMMAND = [sys.executable, "-m", "studies.flood.simulate"]


def call(*arguments: object) -> int:
    torch.set_num_threads(1)
    return simulate.main([*SMALL, *map(str, arguments)])


def shown(count: int) -> Shown:
    depths = torch.linspace(0, 1, count)[:, None, None].repeat(1, 8, 8)
    return Shown(1800 * torch.arange(count, dtype=torch.float64), depths, torch.rand(8, 8), 10.0)


def test_it_writes_pictures_and_prints_the_mass_balance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "new/depth.png", tmp_path / "depth.GIF", tmp_path / "bed.png"]
    assert call("--seed", 3, "--out", files[0], "--out", files[1], "--terrain", files[2]) == 0
    with Image.open(files[0]) as image:
        assert image.format == "PNG"
    with Image.open(files[1]) as image:
        assert (image.format, image.n_frames) == ("GIF", 4)  # type: ignore[attr-defined]
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("flood 3 of the set small: 8 x 8 cells, 0.1 h, float32; inflow up to ")
    assert lines[1].split()[0] == "hours" and lines[-3:] == [str(path) for path in files]
    rows = [[float(number) for number in line.split()] for line in lines[2:-4]]
    assert [row[0] for row in rows] == [0, 0.03, 0.07, 0.1] and rows[-1][2] > rows[1][2] > 0
    assert all(abs(stored - inflow - rain + outflow) < 0.2 for _, stored, inflow, rain, outflow, _ in rows)
    assert "million cell-steps/s; deepest snapshot " in lines[-4] and not err


def test_it_is_the_flood_of_the_set_and_float64_on_request() -> None:
    ground, forcing = floods.draw("big", 2, 8, 0.1)
    simulation = floods.simulation_of(ground, forcing, torch.float64)
    seen: list[float] = []
    states = simulate.run(simulation, simulate.times(0.1, 4), lambda state: seen.append(float(state.time)))
    expected = simulation.advance(simulation.advance(simulation.start(), 240.0), 360.0)
    assert [float(state.time) for state in states] == [0, 240, 360] and states[-1].depth.dtype == torch.float64
    assert torch.equal(states[-1].depth, expected.depth) and seen[-1] == 360 and seen == sorted(seen)


@given(hours=st.floats(0.01, 100), minutes=st.integers(1, 600))
def test_the_snapshots_are_at_equal_times_and_at_the_end(hours: float, minutes: int) -> None:
    found = simulate.times(hours, minutes)
    assert found[-1] == 3600 * hours and found[:-1] == [60.0 * minutes * (n + 1) for n in range(len(found) - 1)]
    assert all(0 < later - one <= 60 * minutes for one, later in zip([0.0, *found], found, strict=False))


def test_a_file_that_is_there_is_replaced_only_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "depth.png"
    path.write_text("mine")
    assert call("--out", tmp_path / "a.gif", path) == 1
    out, err = capsys.readouterr()
    assert err == f"{path} exists already: choose another name, or add --force to replace it\n" and not out
    assert path.read_text() == "mine" and not (tmp_path / "a.gif").exists()
    assert call("--out", path, "--force") == 0
    with Image.open(path) as image:
        assert image.format == "PNG"


def test_two_pictures_do_not_replace_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.png"
    assert call("--out", path, "--terrain", path) == 1
    assert "named twice" in capsys.readouterr().err and not path.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--seed", "-1"], 2, "--seed: '-1' is not a whole number from 0"),
        (["--cells", "0"], 2, "--cells: '0' is not a whole number from 1"),
        (["--cells", "7"], 1, "a terrain needs cells >= 8"),
        (["--hours", "nan"], 2, "--hours: 'nan' is not a number above 0"),
        (["--hours", "soon"], 2, "--hours: 'soon' is not a number above 0"),
        (["--snapshot-minutes", "0.5"], 2, "--snapshot-minutes: '0.5' is not a whole number from 1"),
        (["--out", "depth.jpg"], 2, "--out: 'depth.jpg' must end in .png or .gif"),
        (["--terrain", "bed.gif"], 2, "--terrain: 'bed.gif' must end in .png"),
        (["--set", "large"], 2, "--set: invalid choice: 'large'"),
        (["--out", "/dev/null/depth.png"], 1, "/dev/null/depth.png cannot be written: /dev/null is a file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found: object = call(*arguments)
    except SystemExit as end:
        found = end.code
    assert found == code
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1] and (code == 2 or len(err.splitlines()) == 1)


def test_ctrl_c_ends_it_with_one_line_and_without_files(tmp_path: Path) -> None:
    """As a process of its own. The line of stdout that comes first says that it has begun."""
    path = tmp_path / "depth.png"
    command = [*COMMAND, "--cells", "32", "--hours", "1000", "--out", str(path)]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline().startswith("flood 0 of the set small")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n")
    assert not path.exists()


def test_progress_shows_how_much_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 5.0, 20.0, 25.0, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    ground, forcing = floods.draw("small", 0, 8, 0.1)
    simulation = floods.simulation_of(ground, forcing)
    progress = simulate.Progress(0.1)
    for minute in (1, 2, 3, 6):
        progress(simulation.advance(simulation.start(), 60.0 * minute))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("0.03 of 0.1 h simulated, ") and line.endswith(" m, 40 s left")


def test_progress_on_a_terminal_is_one_line_that_disappears(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    ground, forcing = floods.draw("small", 0, 8, 0.1)
    simulation = floods.simulation_of(ground, forcing)
    progress = simulate.Progress(0.1)
    progress.interval = 0
    simulate.run(simulation, simulate.times(0.1, 3), progress)
    text = terminal.getvalue()
    assert "\n" not in text and text.count(" h simulated") >= 2 and text.endswith("\r\033[K")


@given(count=st.integers(1, 100), most=st.integers(1, 20))
def test_chosen_snapshots_are_evenly_spaced_with_both_ends(count: int, most: int) -> None:
    found = evenly(count, most)
    assert len(found) == len(set(found)) == min(count, most) and found[0] == 0
    assert most == 1 or found[-1] == count - 1
    gaps = np.diff(found)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_a_picture_has_a_panel_or_a_frame_for_each_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, buffer, **options: figures.append(figure))
    for count, titles in ((1, ["0:00 h"]), (3, ["0:00 h", "0:30 h", "1:00 h"])):
        panels(shown(count))
        assert [axes.get_title() for axes in figures[-1].axes if axes.images and axes.get_title()] == titles
    panels(shown(30))
    used = [axes for axes in figures[-1].axes if axes.get_visible() and axes.get_title()]
    assert len(used) == MOST_PANELS and used[-1].get_title() == "14:30 h"
    with Image.open(io.BytesIO(animation(shown(14)))) as image:
        assert image.n_frames == 14  # type: ignore[attr-defined]


def test_deeper_water_has_another_colour_and_a_dry_cell_none() -> None:
    with Image.open(io.BytesIO(animation(shown(3)))) as image:
        frames = []
        for number in range(3):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB"))[150:300, 150:300].astype(int))
    dry, half, deep = (frame.reshape(-1, 3).mean(0) for frame in frames)
    assert np.ptp(dry) < 3, "the bed is grey"
    assert np.ptp(half) > 30 and np.abs(half - deep).max() > 30


def test_times_are_written_as_hours_and_minutes() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 3900, 90000)] == ["0:00 h", "0:01 h", "1:05 h", "25:00 h"]


def test_folders_are_made_before_the_work_begins(tmp_path: Path) -> None:
    commands.make_room([tmp_path / "a/b/c.png", Path("d.png")], replace=False)
    assert (tmp_path / "a/b").is_dir() and not (tmp_path / "a/b/c.png").exists()
