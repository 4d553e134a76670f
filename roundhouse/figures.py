"""What a study or a round file declares about the figures of a round; analysis/declared draws them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args

from roundhouse.errors import RoundhouseError
from roundhouse.names import nearest
from roundhouse.schema import key

Kind = Literal["against", "box", "images", "epochs", "tradeoff", "heatmap", "interaction", "parallel"]
Axis = Literal["sample", "array", "setting"]
COMMON = frozenset({"kind", "title", "groups"})
# By kind: the keys that it needs, and those that it may have too.
KEYS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "against": (frozenset({"over"}), frozenset({"metric", "by"})),
    "box": (frozenset(), frozenset({"metric", "array", "by", "threshold"})),
    "images": (frozenset({"arrays"}), frozenset({"diverging", "rows", "columns", "samples", "file"})),
    "epochs": (frozenset({"metrics"}), frozenset({"by", "events"})),
    "tradeoff": (frozenset({"over"}), frozenset({"metric", "by"})),
    "heatmap": (frozenset({"keys"}), frozenset({"metric"})),
    "interaction": (frozenset({"keys"}), frozenset({"metric", "separator"})),
    "parallel": (frozenset({"keys"}), frozenset({"metric"})),
}
_COUNTS = {"heatmap": (2, 2), "interaction": (1, 12), "parallel": (1, 12), "epochs": (1, 6), "images": (1, 6)}


class WrongFigure(RoundhouseError, ValueError):
    """A declaration with a mistake. As a ValueError, it is reported with its line in a round file."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a round. Which keys belong to which kind: docs/analysis.md, "Figures by declaration"."""

    kind: Kind = key("against, box, images, epochs, tradeoff, heatmap, interaction or parallel")
    title: str = key("Title; default: made from the names in it", "")
    groups: tuple[str, ...] = key("Groups whose experiments are shown; default: all that have what it needs", ())
    metric: str = key("Metric; if it has a final (test) metric, that is shown; default: the main metric", "")
    metrics: tuple[str, ...] = key("epochs: the metrics that are drawn in one panel", ())
    over: str = key("against: config key of the x axis; tradeoff: metric, cost or config key of the x axis", "")
    by: str = key("Config key whose values are the lines, boxes or colours; default: the setting", "")
    keys: tuple[str, ...] = key("heatmap: config keys of rows and columns; interaction, parallel: config keys", ())
    separator: str = key("interaction: what separates the techniques in the text of the one key, such as +", "")
    events: tuple[str, ...] = key("epochs: metrics; where one is not 0, a vertical line marks an event", ())
    array: str = key("box: array with a value for each example, instead of a metric", "")
    threshold: float | None = key("box: a line is drawn there, and the share of values below it is stated", None)
    arrays: tuple[str, ...] = key("images: arrays of maps or pictures, (N, height, width) or with channels", ())
    diverging: tuple[str, ...] = key("images: those of the arrays that are drawn with 0 in the middle", ())
    rows: Axis = key("images: what the rows are: sample, array or setting", "sample")
    columns: Axis = key("images: what the columns are", "array")
    samples: tuple[int, ...] = key("images: which examples, counted from 0", (0, 1, 2, 3))
    file: str = key("images: file of the run that holds the arrays, such as kept/samples.npz", "outputs.npz")

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise WrongFigure(f"kind: unknown kind {self.kind!r}: {nearest(str(self.kind), get_args(Kind))}")
        for name, message in self.mistakes():
            raise WrongFigure(f"{name}: {message}")

    def mistakes(self) -> list[tuple[str, str]]:
        """What is wrong, each with the key that it concerns."""
        needed, others = KEYS[self.kind]
        written = {one.name for one in fields(self) if getattr(self, one.name) != one.default}
        found = [(name, f"kind {self.kind} has no key {name!r}: {nearest(name, needed | others | COMMON)}")
                 for name in sorted(written - needed - others - COMMON)]  # fmt: skip
        found += [("kind", f"kind {self.kind} needs the key {name!r}") for name in sorted(needed - written)]
        name = {"epochs": "metrics", "images": "arrays"}.get(self.kind, "keys")
        least, most = _COUNTS.get(self.kind, (0, 12))
        count = len(getattr(self, name))
        if name in written and not least <= count <= most:
            found.append((name, f"must have {least if least == most else f'{least} to {most}'} names (got {count})"))
        if self.separator and len(self.keys) != 1:
            found.append(("separator", f"needs one key in keys, whose text is divided (got {len(self.keys)})"))
        if self.array and self.metric:
            found.append(("array", "a box plot shows a metric or an array, not both"))
        if self.kind == "images":
            found += self._mistakes_of_images()
        return found

    def _mistakes_of_images(self) -> list[tuple[str, str]]:
        found = [("diverging", f"{one!r} is not in arrays: {nearest(one, self.arrays)}")
                 for one in self.diverging if one not in self.arrays]  # fmt: skip
        if self.rows == self.columns:
            found.append(("columns", f"rows and columns are both {self.rows}"))
        if "array" not in (self.rows, self.columns) and len(self.arrays) > 1:
            found.append(
                ("arrays", f"only one array is shown unless rows or columns are array (got {len(self.arrays)})")
            )
        if any(one < 0 for one in self.samples) or not self.samples:
            found.append(("samples", "must be numbers of examples, counted from 0"))
        return found

    @property
    def config_keys(self) -> list[tuple[str, str]]:
        """The config keys that it names, each with the key of the declaration. A trade-off's `over` may be a cost."""
        named = [("over", self.over)] if self.kind == "against" else []
        return [*named, *([("by", self.by)] if self.by else []), *(("keys", one) for one in self.keys)]


def unknown_keys(figure: Figure, known: Collection[str]) -> list[tuple[str, str]]:
    """The config keys of a figure that no experiment has: each with the key of the declaration, and a message."""
    return [(where, f"no experiment has the config key {name!r}: {nearest(name, known)}")
            for where, name in figure.config_keys if name not in known]  # fmt: skip
