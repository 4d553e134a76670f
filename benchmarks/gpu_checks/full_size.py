"""Part `studies`: time and memory of a training step at the size of the shipped rounds, on made-up data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import flood_samples
import flow_step
import genegan_step
import torch
import yaml

from gpu_checks.report import MEASURED, Context
from roundhouse.settings import Settings
from roundhouse.training.execute import prepare
from roundhouse.training.precision import Precision
from studies.flood.options import Options as FloodOptions
from studies.flood.surrogates import new_surrogate
from studies.flow_matching.fields import dataset
from studies.flow_matching.flow import FlowModel
from studies.flow_matching.network import Network
from studies.flow_matching.options import Options as FlowOptions
from studies.flow_matching.sources import FieldSource
from studies.flow_matching.techniques import design_of
from studies.flow_matching.trainer import Trainer
from studies.genegan.images import load, make_feed
from studies.genegan.networks import Critics, Generator
from studies.genegan.options import Options as GeneganOptions
from studies.genegan.players import Players

ROUNDS = Path(__file__).resolve().parent.parent.parent / "rounds"
IMAGES = 200  # made-up faces: what a step costs does not depend on their number
SMALL: dict[str, dict[str, Any]] = {
    "flow_matching": {"size": 8, "queries": 16, "observations": 8, "batch_size": 2, "d_model": 8, "num_layers": 1},
    "genegan": {"sizes": (32,), "width": 8, "batch_size": 2},
    "flood": {"width": 0.05, "batch_size": 2},
}


def run(context: Context) -> None:
    """Each study, with the configs of its round. The study of distillation is in the part `speed`."""
    precision = prepare(Settings(device=context.device))
    for techniques in ("", group("improvements", "all_ten")["config"]["techniques"]):
        step = partial(flow_matching, context, precision, techniques)
        measure(context, f"flow_matching, techniques {techniques or 'none'}", precision, step)
    for name in ("EXP00", "EXP02_all", "EXP07_r1"):
        measure(context, f"genegan, {name}", precision, partial(genegan, context, precision, name))
    for architecture in group("flood", "A")["zip"]["architecture"]:
        step = partial(flood, context, precision, architecture)
        measure(context, f"flood, architecture {architecture}, width {largest_width():g}", precision, step)


def measure(context: Context, name: str, precision: Precision, make: Callable[[], Callable[[int], Any]]) -> None:
    """Seconds and memory of a step that `make` prepares, after two others."""
    device, times = precision.device, 1 if context.small else 10

    def work() -> None:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        step = make()
        flow_step.seconds(step, 1 if context.small else 2, device)
        values = {"ms_for_a_step": 1000 * flow_step.seconds(step, times, device)}
        if device.type == "cuda":
            values["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
        figures = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in values.items())
        context.row(name, MEASURED, f"{precision.name}, {figures}", precision=precision.name, **values)

    context.attempt(name, work, needs=0 if context.small else 8)


def group(round_name: str, name: str) -> Mapping[str, Any]:
    """A group of experiments of a shipped round, as its file has it, with the round's defaults in its config."""
    content = yaml.safe_load((ROUNDS / f"{round_name}.yaml").read_text())
    found = content["experiments"][name]
    return {**found, "config": {**content.get("defaults", {}), **found.get("config", {})}}


def options_of(kind: Any, study: str, context: Context, config: Mapping[str, Any]) -> Any:
    """A study's options from a config, without the keys of the training loop; tiny ones in a dry run."""
    known = {one.name for one in fields(kind)}
    chosen = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items() if key in known}
    return kind(**{**chosen, **(SMALL[study] if context.small else {})})


def flow_matching(context: Context, precision: Precision, techniques: str) -> Callable[[int], Any]:
    config = {**group("improvements", "base")["config"], "techniques": techniques}
    options = options_of(FlowOptions, "flow_matching", context, config)
    design, device = design_of(options), precision.device
    model = FlowModel(Network(options, design).to(device), design, precision.autocast)
    source = FieldSource(dataset(options.complexity, "train", options.fields, options.size).to(device), options, design)
    return partial(flow_step.train, Trainer(model, design, source, options, options.epochs))


def genegan(context: Context, precision: Precision, name: str) -> Callable[[int], Any]:
    """A step of the critics and one of the generator."""
    config = {**group("genegan", name)["config"], "dataset": "faces", "images": IMAGES, "feed": "device"}
    options = options_of(GeneganOptions, "genegan", context, config)
    networks = Generator(options).to(precision.device), Critics(options).to(precision.device)
    study = genegan_step.Study(options, *networks)
    study.players = Players(*networks, options, precision.autocast)
    feed = make_feed(options, load(options, None, "train", precision.device), lambda step: [options.sizes] * 2, 0)
    batches = feed.batches(0)
    return lambda number: study.step(batches)


def largest_width() -> float:
    """Of the surrogates in the round flood."""
    return float(max(group("flood", "B_best")["focus"]["width"]["grid"]["width"]))


def flood(context: Context, precision: Precision, architecture: str) -> Callable[[int], Any]:
    config = {"architecture": architecture, "width": largest_width()}
    options = options_of(FloodOptions, "flood", context, config)
    samples = flood_samples.made_up(1, 48 if context.small else options.cells).to(precision.device)
    study = flood_samples.Study(options, samples, new_surrogate(options).to(precision.device))

    def step(number: int) -> None:
        chosen = torch.randint(len(samples), (options.batch_size,), generator=torch.Generator().manual_seed(number))
        with precision.autocast():
            study.step(chosen)

    return step
