"""Pictures of samples: over the training of an arm, and of all arms side by side on the same faces."""

from __future__ import annotations

import numpy as np

from analysis.declared.arrays import examples, file_of, read
from analysis.declared.image_grid import GAP, LINE, GridRow, Layout, Wanted, draw
from analysis.learning_curves import DrawnFigure
from analysis.saved_arrays import Array
from analysis.style import PRINT_WIDTH
from studies.genegan.analysis.queue_file import name_of
from studies.genegan.analysis.results import DISTANCE, Arm, GeneganResults, Run

AU, B0, _, _, BU, A0 = COLUMNS = range(6)  # of a picture of samples
PARTS = (("attribute added", "input B0", B0, BU), ("attribute removed", "input Au", AU, A0))
FACES = 3  # of each direction, over the training
MOST_STEPS = 7
FACES_OF_ARMS = 4
HEIGHT = 9.0  # inches of a page
WIDEST = 0.95  # inches of a face
OUTPUTS = "outputs.npz"


def over_training(arm: Arm) -> DrawnFigure | None:
    """Samples of the first seed that has any, at up to seven iterations, on the same validation faces."""
    run = _shown(arm)
    if run is None:
        return None
    names = pictures_of(run)
    steps = sorted({round(one) for one in np.linspace(0, len(names) - 1, min(MOST_STEPS, len(names)))})
    chosen = [list(names)[one] for one in steps]
    samples = {step: kept_samples(run, names[step]) for step in chosen}
    blocks, rows = [], []
    for title, given, inputs, outputs in PARTS:
        faces = [GridRow(f"face {face + 1}", [samples[chosen[0]][face, inputs],
                                              *(samples[step][face, outputs] for step in chosen)],
                         [False] * (len(chosen) + 1)) for face in range(FACES)]  # fmt: skip
        blocks.append((f"{title} ({'Bu' if outputs == BU else 'A0'}; first column: {given})", faces))
        rows += [{"path": run.path, "part": title, "iteration": step, "file": names[step]} for step in chosen]
    labels = ["input", *(f"{step:,}" for step in chosen)]
    wanted = Wanted(len(labels), FACES, 2, 2, 1.0, 0.5, 0, [title for title, _ in blocks], [], labels)
    figure = draw(blocks, wanted, _layout(wanted))
    caption = (
        f"Outputs of {run.path} over its training, columns by iteration, on validation faces, which are the same in "
        "all runs of the round."
    )
    return DrawnFigure(figure, rows, f"Samples over iterations: {arm.label}", caption)


def side_by_side(results: GeneganResults) -> DrawnFigure | None:
    """A row for each arm, on the same faces: test images if each arm has them, else validation images so far."""
    arms = [
        (arm, run) for arm in results.gans if (run := next((one for one in arm.to_show() if pictures_of(one)), None))
    ]
    tested = [(arm, run) for arm, run in arms if run.completed and file_of(run.entry, OUTPUTS)]
    if not arms:
        return None
    if len(tested) == len(arms):
        found = [(arm, run, arm.label, _tested_samples(run)) for arm, run in arms]
        what = "test images, with the best weights"
    else:
        found = []
        for arm, run in arms:
            step, name = list(pictures_of(run).items())[-1]
            found.append((arm, run, f"{arm.label}\n{step:,}", kept_samples(run, name)))
        what = "validation images, with the weights of the iteration that is written below the arm's name"
    faces = range(FACES_OF_ARMS)
    given = GridRow("input", [found[0][3][face, inputs] for _, _, inputs, _ in PARTS for face in faces],
                    [False] * len(PARTS) * FACES_OF_ARMS)  # fmt: skip
    rows = [given]
    for _, _, label, samples in found:
        cells = [samples[face, outputs] for _, _, _, outputs in PARTS for face in faces]
        rows.append(GridRow(label, cells, [False] * len(cells)))
    labels = [f"{'added' if outputs == BU else 'removed'} {face + 1}" for *_, outputs in PARTS for face in faces]
    wanted = Wanted(len(labels), len(rows), 1, 1, 1.0, 1.05, 0, [], [row.label for row in rows], labels)
    figure = draw([("", rows)], wanted, _layout(wanted))
    seeds = ", ".join(dict.fromkeys(str(run.seed) for _, run, *_ in found))
    caption = (
        f"The same faces for all arms: {what}; seed {seeds}. Added: Bu, the face B0 with the attribute; removed: A0, "
        "the face Au without it."
    )
    lacking = [arm.label for arm in results.gans if arm not in [one for one, *_ in found]]
    if lacking:
        caption += f" Without samples: {', '.join(lacking)}."
    table = [{"arm": arm.label, "path": run.path, "row": label.replace("\n", " ")} for arm, run, label, _ in found]
    return DrawnFigure(figure, table, "Samples of all arms on the same faces", caption)


def _shown(arm: Arm) -> Run | None:
    """The run that stands for an arm: the first one with a picture."""
    return next((one for one in arm.to_show() if pictures_of(one)), None)


def pictures_of(run: Run) -> dict[int, str]:
    """The kept pictures of a run by iteration."""
    names = {step: f"kept/samples/{name_of(step)}.png" for step, _ in run.series(DISTANCE)}
    return {step: name for step, name in names.items() if file_of(run.entry, name)}


def kept_samples(run: Run, name: str) -> Array:
    """Faces (rows, 6, S, S, 3) from 0 to 1 of a kept picture."""
    picture = read(run.entry, name, "")[0]
    size = picture.shape[1] // len(COLUMNS)
    if size == 0 or picture.shape[0] < FACES_OF_ARMS * size:
        raise ValueError(f"{name} of {run.path} is {picture.shape[1]} x {picture.shape[0]} pixels: too few faces")
    rows = picture.shape[0] // size
    faces = picture[: rows * size, : len(COLUMNS) * size].reshape(rows, size, len(COLUMNS), size, 3)
    return np.swapaxes(faces, 1, 2)


def _tested_samples(run: Run) -> Array:
    """The same of the samples on test images."""
    samples = read(run.entry, OUTPUTS, "samples")
    found = [examples(samples[face], list(COLUMNS), f"samples of {run.path}") for face in range(len(samples))]
    return np.array([[one[column] for column in COLUMNS] for one in found])


def _layout(wanted: Wanted) -> Layout:
    """The widest faces with which everything fits on a page."""
    heads = wanted.blocks * 2.5 * LINE + 0.4
    across = (PRINT_WIDTH - wanted.side) / wanted.columns - GAP
    down = (HEIGHT - heads) / (wanted.rows * wanted.blocks) - GAP
    width = max(0.3, min(across, down, WIDEST))
    return Layout((width, width), wanted.columns, wanted.rows, wanted.blocks)
