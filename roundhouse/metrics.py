"""What a study or a round file declares about metrics, so that tables and figures need no knowledge of a study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from roundhouse import study_modules
from roundhouse.errors import RoundhouseError
from roundhouse.figures import Figure
from roundhouse.names import is_identifier, is_name
from roundhouse.schema import key

Mode = Literal["min", "max"]
Scale = Literal["linear", "percent", "db", "log"]
FINAL, MEASURED = "test_", "val_"  # prefixes: by convention, the final metric of val_X is test_X
PREFIXES = {"train_": "training", MEASURED: "validation", "validation_": "validation", FINAL: "test"}


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that runs report, as tables and figures show it."""

    label: str = key("Text in figures and tables; default: the words of the name", "")
    unit: str = key("Unit of the values, such as nats", "")
    mode: Mode | None = key("Whether the lowest or the highest value is the best", None)
    scale: Scale = key("linear; percent: a share of 1, shown in %; db: decibels; log: drawn on a logarithmic axis",
                       "linear")  # fmt: skip
    baseline: str | float | None = key("Value to compare with: a number, or the final metric that holds it", None)
    final: str | None = key("The final metric that belongs to a validation metric; default: test_X for val_X", None)
    main: bool = key("Whether tables and figures show this metric first", False)
    panel: str = key("Metrics of one panel are drawn together; default: the name without train_ or val_", "")
    curve: bool = key("Whether its values over the training are drawn", True)

    def __post_init__(self) -> None:
        for name, kind in (("mode", Mode), ("scale", Scale)):
            value = getattr(self, name)
            if value not in get_args(kind) and not (name == "mode" and value is None):
                raise RoundhouseError(f"{name} must be one of {', '.join(get_args(kind))} (got {value!r})")

    @property
    def percent(self) -> bool:
        return self.scale == "percent"

    @property
    def factor(self) -> float:
        """What values are multiplied with before they are shown."""
        return 100.0 if self.percent else 1.0

    @property
    def shown_unit(self) -> str:
        """The unit of values as they are shown; empty if there is none."""
        return "%" if self.percent else self.unit or ("dB" if self.scale == "db" else "")


@dataclass(frozen=True)
class Declarations:
    """What a study declares, with the changes of the round file. Without any, metrics are shown by their names.

    `arrays`: the meaning of the arrays in outputs.npz. `apart`: config keys whose values are never compared or averaged
    with each other, such as the data set. `cost`: further config keys on which the time of a run depends. `figures`: by
    name, the figures that are drawn in addition to those of every round.
    """

    metrics: Mapping[str, Metric] = field(default_factory=dict)
    arrays: Mapping[str, str] = field(default_factory=dict)
    apart: tuple[str, ...] = ()
    cost: tuple[str, ...] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def updated(
        self,
        metrics: Mapping[str, Mapping[str, Any]],
        apart: Sequence[str] | None,
        figures: Mapping[str, Figure | None],
    ) -> Declarations:
        """With the changes of a round file: of each metric key by key; `apart`, if it is not None, as a whole.

        A figure replaces that of the same name, and None removes it.
        """
        known = dict(self.metrics)
        if any(change.get("main") for change in metrics.values()):
            known = {name: replace(one, main=False) for name, one in known.items()}
        known |= {name: replace(known.get(name, Metric()), **change) for name, change in metrics.items()}
        drawn = {name: one for name, one in {**self.figures, **figures}.items() if one is not None}
        return replace(self, metrics=known, apart=self.apart if apart is None else tuple(apart), figures=drawn)

    def of(self, name: str) -> Metric:
        """The declaration of a metric; of a final metric without one, that of the metric that it belongs to."""
        if name in self.metrics:
            return self.metrics[name]
        owner = next((one for key, one in self.metrics.items() if name in (one.final, f"{FINAL}{_bare(key)}")), None)
        return replace(owner, label=_of_final(name, owner), final=None, main=False, panel="") if owner else _UNDECLARED

    def label(self, name: str) -> str:
        """The declared label; else the words of the name, such as `validation accuracy` for val_accuracy."""
        prefix = name.removesuffix(quantity(name))
        return self.of(name).label or f"{PREFIXES.get(prefix, '')} {quantity(name)}".strip().replace("_", " ")

    def axis(self, name: str) -> str:
        """The label with the unit."""
        return with_unit(self.label(name), self.of(name).shown_unit)

    @property
    def main(self) -> str | None:
        """The metric that is declared as the main one, if any is."""
        return next((name for name, one in self.metrics.items() if one.main), None)

    def final_of(self, name: str) -> str:
        """The name of the final metric that belongs to a metric."""
        return self.of(name).final or f"{FINAL}{name.removeprefix(MEASURED)}"

    def results_in(self, finals: Iterable[str]) -> list[str]:
        """Those final metrics that are results on test data: declared as `final`, or by convention test_X."""
        declared = {one.final for one in self.metrics.values()}
        return [name for name in finals if name in declared or name.startswith(FINAL)]

    @property
    def references(self) -> set[str]:
        """The final metrics that hold the baseline of another metric."""
        return {one.baseline for one in self.metrics.values() if isinstance(one.baseline, str)}

    def reference_label(self, name: str) -> str | None:
        """What the baseline of a metric is called, such as `chance`; None if none is declared."""
        baseline = self.of(name).baseline
        return None if baseline is None else self.label(baseline) if isinstance(baseline, str) else "reference"

    def reference(self, name: str, finals: Mapping[str, float]) -> float | None:
        """The baseline of a metric for a run with these final metrics; None if it is not known."""
        baseline = self.of(name).baseline
        return finals.get(baseline) if isinstance(baseline, str) else baseline


_UNDECLARED = Metric()


def _of_final(name: str, owner: Metric) -> str:
    """The label of the final metric that belongs to a metric: `test PSNR` for `validation PSNR` or `PSNR`."""
    text = owner.label.removeprefix(f"{PREFIXES[MEASURED]} ")
    return f"{PREFIXES[FINAL]} {text}" if text and (name.startswith(FINAL) or text != owner.label) else text


def quantity(name: str) -> str:
    """A metric's name without the data that it was measured on: `accuracy` for `val_accuracy` and `test_accuracy`."""
    prefix = next((one for one in PREFIXES if name.startswith(one) and name != one), "")
    return name.removeprefix(prefix)


def _bare(name: str) -> str | None:
    """`X` for val_X; None for another name."""
    return name.removeprefix(MEASURED) if name.startswith(MEASURED) else None


def with_unit(text: str, unit: str) -> str:
    return f"{text} ({unit})" if unit else text


def declared_by(study: str | None, repository: Path) -> Declarations:
    """What studies/STUDY/metrics.py declares: METRICS, ARRAYS, APART, COST, FIGURES. Any may be missing, the file too.

    RoundhouseError: the file cannot be imported, or a declaration has another type.
    """
    module = study_modules.load(repository, study, "metrics") if study else None
    if module is None:
        return Declarations()
    metrics, arrays = getattr(module, "METRICS", {}), getattr(module, "ARRAYS", {})
    apart, cost = getattr(module, "APART", ()), getattr(module, "COST", ())
    figures = getattr(module, "FIGURES", {})
    where = f"studies/{study}/metrics.py"
    if not isinstance(metrics, Mapping) or not all(isinstance(one, Metric) for one in metrics.values()):
        raise RoundhouseError(f"{where}: METRICS must map the name of each metric to a Metric")
    if not isinstance(arrays, Mapping) or not all(isinstance(one, str) for one in (*arrays, *arrays.values())):
        raise RoundhouseError(f"{where}: ARRAYS must map the name of each array to its meaning")
    if not isinstance(figures, Mapping) or not all(isinstance(one, Figure) for one in figures.values()):
        raise RoundhouseError(f"{where}: FIGURES must map the name of each figure to a Figure")
    if wrong := next((one for one in figures if not is_name(str(one))), None):
        raise RoundhouseError(f"{where}: the name of a figure has letters, digits, - and _ only (got {wrong!r})")
    for name, keys in (("APART", apart), ("COST", cost)):
        if not isinstance(keys, (list, tuple)) or not all(isinstance(one, str) and is_identifier(one) for one in keys):
            raise RoundhouseError(f"{where}: {name} must be a list of config keys (got {keys!r})")
    main = [name for name, one in metrics.items() if one.main]
    if len(main) > 1:
        raise RoundhouseError(f"{where}: only one metric can have main=True (got {', '.join(main)})")
    return Declarations(dict(metrics), dict(arrays), tuple(apart), tuple(cost), dict(figures))
