"""Analysis of rounds: DataFrames, plots, tables, the report. Records are read, never written.

`from analysis import load_round, load_metrics`; the scripts are plot_experiments.py, report.py, tables.py, charlie.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.dataframes import load_metrics, load_round

__all__ = ["load_metrics", "load_round"]


def __getattr__(name: str) -> Any:
    # Imported on first use: checking whether plots are out of date needs no pandas.
    if name in __all__:
        from analysis import dataframes

        return getattr(dataframes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
