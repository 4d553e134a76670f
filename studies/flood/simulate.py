"""Simulate one flood by hand, with pictures of its depth over time: `python -m studies.flood.simulate`.

It is the flood of this number in a set of the round. A table of the mass balance is on stdout, and progress on stderr.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from roundhouse.training import keep
from studies.commands import above_0, exit_code_of, make_room, whole_number, whole_number_from_0
from studies.flood import floods
from studies.flood.forcing import INTERVAL, ForcingTable
from studies.flood.options import SETS, Options
from studies.flood.pictures import KINDS, MOST_PANELS, Shown, drawn
from studies.flood.samples import DRY
from studies.flood.simulation import Simulation, State, table
from studies.flood.terrain import Terrain, preview

_STEPS = 50  # of the solver between two looks at the clock


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 1: it failed, with the reason on stderr; 2: an option is wrong; 130: Ctrl-C."""
    options = _parser().parse_args(arguments)
    return exit_code_of(lambda: simulate(options))


def simulate(options: argparse.Namespace) -> None:
    """Everything that the options ask for. RoundhouseError, OSError: a file cannot be written, or is there already."""
    outputs = [*options.out, *([options.terrain] if options.terrain else [])]
    make_room(outputs, options.force)
    ground, forcing = floods.draw(options.set, options.seed, options.cells, options.hours)
    print(title(options, forcing))
    if options.terrain:
        preview(ground, options.terrain)
    simulation = floods.simulation_of(ground, forcing, torch.float64 if options.double else torch.float32)
    begun = time.monotonic()
    states = run(simulation, times(options.hours, options.snapshot_minutes), Progress(options.hours))
    seconds = time.monotonic() - begun
    print(table([simulation.balance(state) for state in states]))
    print(summary(states, seconds))
    shown = shown_of(ground, states)
    for path in options.out:
        keep.write(path.parent, path.name, drawn(shown, path.suffix.lower()))
    for path in outputs:
        print(path)


def run(simulation: Simulation, times: Sequence[float], progress: Callable[[State], None]) -> list[State]:
    """The states at the start and at these times in s; `progress` sees those between them, too."""
    states = [simulation.start()]
    for end in times:
        state = states[-1]
        while float(state.time) < end:
            state = simulation.advance(state, end, at_most=_STEPS)
            progress(state)
        states.append(state)
    return states


def times(hours: float, minutes: int) -> list[float]:
    """Of the snapshots after the start, in s: each so many minutes, and the end."""
    end, interval = 3600 * hours, 60 * minutes
    before = [float(interval * number) for number in range(1, int(end // interval) + 1) if interval * number < end]
    return [*before, end]


class Progress:
    """Lines on stderr: on a terminal one line that changes, else a new one now and then; none for a short run."""

    def __init__(self, hours: float) -> None:
        self.hours, self.terminal = hours, sys.stderr.isatty()
        self.interval = 0.5 if self.terminal else 10.0
        self.begun = self.shown = time.monotonic()

    def __call__(self, state: State) -> None:
        now, done = time.monotonic(), float(state.time) / 3600
        finished = done >= self.hours
        if self.terminal and finished:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        elif now - self.shown >= self.interval and not finished:
            self.shown = now
            left = (now - self.begun) * (self.hours / done - 1)
            line = (
                f"{done:.2f} of {self.hours:g} h simulated, {int(state.steps)} steps, deepest {deepest(state):.2f} m, "
            )
            start, end = ("\r\033[K", "") if self.terminal else ("", "\n")
            print(f"{start}{line}{left:.0f} s left", end=end, file=sys.stderr, flush=True)


def deepest(state: State) -> float:
    """m."""
    return float(state.depth.max())


def title(options: argparse.Namespace, forcing: ForcingTable) -> str:
    """One line about the flood."""
    rain = 1000 * INTERVAL * float((forcing.rain[1:] + forcing.rain[:-1]).sum()) / 2
    return (
        f"flood {options.seed} of the set {options.set}: {options.cells} x {options.cells} cells, {options.hours:g} h, "
        f"{'float64' if options.double else 'float32'}; inflow up to {float(forcing.inflow.max()):.1f} m3/s, "
        f"{rain:.0f} mm of rain"
    )


def summary(states: Sequence[State], seconds: float) -> str:
    """One line about the simulation, which took so many seconds."""
    end = states[-1]
    wet = float((end.depth >= DRY).double().mean())
    speed = int(end.steps) * end.depth.numel() / seconds
    return (
        f"{int(end.steps)} steps in {seconds:.1f} s: {speed / 1e6:.2f} million cell-steps/s; deepest snapshot "
        f"{max(map(deepest, states)):.2f} m; {100 * wet:.0f} % of the cells are wet at the end"
    )


def shown_of(ground: Terrain, states: Sequence[State]) -> Shown:
    """What the pictures show."""
    depths = torch.cat([state.depth for state in states]).float()
    return Shown(torch.cat([state.time for state in states]), depths, ground.coarse, ground.spacing)


def _picture(text: str) -> Path:
    if Path(text).suffix.lower() not in KINDS:
        raise argparse.ArgumentTypeError(f"{text!r} must end in {' or '.join(KINDS)}")
    return Path(text)


def _preview(text: str) -> Path:
    if Path(text).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} must end in .png")
    return Path(text)


def _parser() -> argparse.ArgumentParser:
    default = Options()
    parser = argparse.ArgumentParser(
        prog="python -m studies.flood.simulate",
        description="Simulate one flood, draw its depth over time, and print a table of its mass balance.",
    )
    add = parser.add_argument
    add("--set", choices=SETS, default=default.set, help=f"the flood is one of this set; default: {default.set}")
    add("--seed", type=whole_number_from_0, default=0, metavar="N", help="its number in the set; default: 0")
    add("--cells", type=whole_number, default=default.cells, metavar="N",
        help=f"cells of 10 m along each side, from 8; default: {default.cells}")  # fmt: skip
    add("--hours", type=above_0, default=default.hours, metavar="H", help=f"default: {default.hours:g}")
    add("--snapshot-minutes", type=whole_number, default=30, metavar="M",
        help="between two rows of the table, and two pictures; default: 30")  # fmt: skip
    add("--double", action="store_true", help="float64, not float32")
    add("--out", type=_picture, nargs="+", action="extend", metavar="FILE", default=[],
        help=f"depth over time: .png has up to {MOST_PANELS} panels, .gif a frame for each snapshot")  # fmt: skip
    add("--terrain", type=_preview, metavar="FILE.png", help="picture of the bed and the land use, drawn at once")
    add("--force", action="store_true", help="replace files that exist already")
    return parser


if __name__ == "__main__":
    sys.exit(main())
