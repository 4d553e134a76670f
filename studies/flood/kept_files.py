"""The files that runs keep for other runs: their names, and where they are. The runner imports it, so no torch here."""

from __future__ import annotations

from pathlib import Path

from roundhouse.errors import RoundhouseError as StudyError

SIMULATION, SAMPLES, WEIGHTS = "simulation.pth", "samples.pth", "best.pth"
KEPT = "kept"
"""Folder of an attempt."""
FIRST = "run the data step first (the stages `simulations` and `samples` of the round)"


def samples_file(place: Path) -> Path:
    """The samples that config key 'samples' names: a file, or the newest one of an experiment or an attempt.

    StudyError: there are none.
    """
    attempts = sorted((one for one in place.glob("attempts/*") if one.name.isdigit()), key=lambda one: -int(one.name))
    for candidate in (place, *(one / KEPT / SAMPLES for one in (place, *attempts))):
        if candidate.is_file():
            return candidate
    raise StudyError(f"config key 'samples': there are no samples in {place.absolute()}: {FIRST}")
