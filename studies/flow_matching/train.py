"""One run: a network learns the flow from noise to fields, or regresses them, in one phase or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from roundhouse.training import BatchPlan, Run, StudyError, plan_batch
from studies.flow_matching.evaluation import last_psnr, test_results, validation_psnr
from studies.flow_matching.fields import dataset
from studies.flow_matching.flow import FlowModel
from studies.flow_matching.held_out import HeldOut
from studies.flow_matching.network import Network
from studies.flow_matching.options import Options
from studies.flow_matching.regression import RegressionModel
from studies.flow_matching.sources import FieldSource
from studies.flow_matching.techniques import design_of
from studies.flow_matching.trainer import Model, Trainer


def train(run: Run, options: Options, inputs: Mapping[str, Sequence[Path]], data: Path | None) -> None:
    """Train what `options` describe. There are no inputs, and the fields are computed, not read."""
    design = design_of(options)
    network = run.prepare(Network(options, design).to(run.device))
    flow = FlowModel(network, design, run.autocast)
    model: Model = RegressionModel(network, run.autocast) if options.method == "regression" else flow
    train_fields = dataset(options.complexity, "train", options.fields, options.size).to(run.device)
    fields = FieldSource(train_fields, options, design)
    validation = HeldOut.load(options, "validation", options.validation_fields, run.device)
    run.track(network=network)
    run.planned(sum(phase.epochs for phase in design.phases))

    steps = 0
    plan = BatchPlan(options.batch_size, parts=1, part=options.batch_size)
    for phase in design.phases:
        last = phase is design.phases[-1]
        trainer = Trainer(model, design, phase.source(run, flow, fields), options, phase.epochs)
        run.track(**trainer.parts(phase.name))
        if phase is design.phases[0]:  # and the same in all phases
            attempt = partial(trainer.attempt, fields)
            plan = plan_batch(run, attempt, [network], options.batch_size, options.accumulation)
        trainer.part = plan.part
        evaluated = model.with_network(trainer.weights)
        if last:
            run.best("val_psnr", mode="max", weights={"network": trainer.weights})
        for epoch in run.epochs(phase.epochs, name=phase.name):
            network.train()
            for step, chosen in epoch.batches(trainer.epoch_order(epoch.generator("order"))):
                trainer.step(step, chosen, epoch.index * trainer.steps_per_epoch + step.index)
            if (epoch.index + 1) % options.validate_every == 0 or epoch.index + 1 == phase.epochs or epoch.cut:
                network.eval()
                psnr = validation_psnr(evaluated, validation, run, options)
                run.record(**{"val_psnr" if last else "flow_val_psnr": psnr}, **plan.metrics)
        if not last:
            steps += trainer.steps
            run.once(f"after_{phase.name}", partial(adopt, network, trainer.weights))
            run.release(*trainer.parts(phase.name))

    network.eval()
    if run.skipped:
        raise StudyError(
            f"training ended before its stage {run.skipped[0]!r}: raise 'max_epochs' or 'time_limit', or leave out "
            "technique 1"
        )
    test = HeldOut.load(options, "test", options.test_fields, run.device)
    metrics = last_psnr(evaluated, test, run, options)
    run.load_best()
    arrays, found = test_results(evaluated, test, validation, run, options)
    parameters = sum(one.numel() for one in network.parameters())
    sizes = {"train_steps": steps + trainer.done, "network_parameters": parameters, **plan.metrics}
    run.finish(arrays, {**metrics, **found, **sizes})


def adopt(network: Network, weights: Network) -> None:
    """The next phase starts from the weights with which this one was evaluated."""
    network.load_state_dict(weights.state_dict())
