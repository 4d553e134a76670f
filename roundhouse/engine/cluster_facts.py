"""Records the size of the cluster once for each round, for the methods chapter; no decision depends on it."""

from __future__ import annotations

import contextlib

from roundhouse.engine.context import PassContext
from roundhouse.engine.report import PassReport
from roundhouse.schedulers.cluster_nodes import cluster_nodes
from roundhouse.store import cluster_file


def record_cluster(context: PassContext, round_name: str, report: PassReport) -> None:
    """After a pass that submitted jobs or found them changed: what its scheduler lists, once. Never fails a pass."""
    directory, kind = context.experiments / round_name, context.scheduler.kind
    if kind == "local" or report.blind or not report.done:
        return
    with contextlib.suppress(OSError):
        if not cluster_file.is_written(directory) and (found := cluster_nodes(kind, context.run)) is not None:
            cluster_file.write(directory, {"scheduler": kind, **found})
