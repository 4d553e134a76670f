"""The facts for a methods chapter: only what was recorded, how often, differences first."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rounds_for_tests import REPOSITORY, snapshot
from shipped_rounds import unpack
from synthetic_rounds import ENVIRONMENT, SCHEDULER, write_mixed, write_round

from analysis import methodology
from analysis.methodology import in_markdown, latex, markdown
from analysis.methods_prose import paragraphs
from analysis.methods_sections import sections
from analysis.provenance import Facts
from analysis.rounds import Folders, read_round
from analysis.tables import escaped
from roundhouse.config.round import load_round
from roundhouse.model.attempt import Opened
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment
from roundhouse.store import history, record

FAILED = "digits/fitnets/alpha_0.25/ResNet20_to_ResNet8/0"
REQUEUED = "digits/logit/alpha_0.5/ResNet20_to_ResNet8/0"
COMMANDS = """\
round: small
resources: {ncpus: 2, walltime: "1:00:00"}
experiments:
  run:
    path: "run/{size}"
    grid: {size: [1, 2, 3]}
    command: ["python", "train_$it.py", "{size}"]
"""
STUDY = """\
round: small
study: distillation
resources: {ngpus: 2, walltime: "2:00:00"}
experiments:
  run:
    path: "run/{size}/{seed}"
    grid: {size: [1, 2], seed: [0, 1]}
    config: {dataset: "a_b & 50%", model: "m|#1", method: pure, note: "\\\\x ~ ^ {y} $z$ *[w]*"}
"""


def chosen(one: Experiment) -> bool:
    return one.config["dataset"] == "svhn" and one.config["method"] in ("pure", "logit")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Rounds in many states, to be read only: mixed, some of charlie, and the two that are shipped."""
    folder = tmp_path_factory.mktemp("made")
    place = Folders(folder / "experiments", folder / "rounds", folder / "analysis")
    write_mixed(place.experiments, place.rounds, epochs=4, examples=60)
    shutil.copy(REPOSITORY / "rounds" / "charlie.yaml", place.rounds)
    write_round(place.experiments, "charlie", place.rounds, epochs=3, examples=40, only=chosen)
    unpack(folder)
    return place


@pytest.fixture
def copied(made: Folders, tmp_path: Path) -> Folders:
    """`mixed`, to be spoilt."""
    place = Folders(tmp_path / "experiments", tmp_path / "rounds", tmp_path / "analysis")
    shutil.copytree(made.experiments / "mixed", place.experiments / "mixed", symlinks=True)
    shutil.copytree(made.rounds, place.rounds)
    return place


def facts_of(place: Folders, name: str) -> Facts:
    return Facts.of(read_round(name, place))


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if line[:1] == "|"
    ]


def prose(text: str) -> str:
    """The paragraphs before the lists and tables."""
    return text.partition("\n## ")[0]


def section(text: str, title: str) -> str:
    assert f"\n## {title}\n" in text, text
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def small(folder: Path, text: str = STUDY) -> Folders:
    """The round `small`, of which nothing has begun."""
    place = Folders(folder / "experiments", folder / "rounds", folder / "analysis")
    (place.experiments / "small").mkdir(parents=True)
    place.rounds.mkdir()
    (place.rounds / "small.yaml").write_text(text)
    return place


def attempt(
    place: Folders,
    experiment: Experiment,
    number: int,
    span: tuple[float, float],
    cause: Cause = Cause.COMPLETED,
    environment: Mapping[str, Any] | None = None,
    progress: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """An attempt with what its job said; returns the experiment's directory."""
    directory = place.experiments / experiment.round / experiment.path
    opened = Opened(record.new_token(), SCHEDULER, experiment.config_hash(), {}, "1")
    assert record.open_attempt(directory, number, opened)
    record.write_config(directory, experiment)
    base = {"version": 1, "nonce": "n"}
    reported = {
        "claim.json": {**base, "host": f"gpu{number}", "at": span[0]},
        "result.json": {**base, "cause": str(cause), "exit_code": 0, "at": span[1]},
        "environment.json": {"version": 1, "host": f"gpu{number}", **environment} if environment else None,
        "progress.json": {"version": 1, **progress} if progress else None,
        "metrics.json": metrics,
    }
    for name, content in reported.items():
        if content is not None:
            (record.attempt_directory(directory, number) / name).write_text(json.dumps(content))
    return directory


def trained(seconds: float, exact: bool = True) -> dict[str, Any]:
    return {"metric": "val_accuracy", "mode": "max", "exact": exact, "best": {"epoch": 1, "val_accuracy": 0.5},
            "final": {}, "used": {"seconds": seconds}, "epochs": [{"stage": "train", "epoch": 1}]}  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- facts


def test_a_mixed_round_is_reported_with_its_counts(made: Folders) -> None:
    reported = markdown(facts_of(made, "mixed"))
    text = prose(reported)
    assert "The round mixed has 17 experiments in 3 groups (teacher 2, student 3, distilled 12)." in text
    assert "Their states: 5 completed, 3 in progress, 6 pending, 1 failed, 1 blocked, 1 cancelled." in text
    # Of two that run now, four that completed at once and one cancelled; two each of the failed and the requeued.
    assert "in 11 runs" in text
    assert "The jobs were run with Slurm on the cluster synthetic." in text
    assert "Each job requested 8 cores, 16 GB of memory, 1 GPU and 2 h of walltime." in text
    assert ["Tesla V100-SXM2-32GB", "GPU", "11", "9"] in [row[:4] for row in rows(reported)]
    assert ["digits", "teacher, student, distilled", "17", "8", "16 GB", "1", "2:00:00"] in rows(reported)
    assert "The computations were done on Tesla V100-SXM2-32GB GPUs." in text
    software = "Python 3.11.7, PyTorch 2.4.1+cu121, CUDA 12.1, cuDNN 9.1.0 and NumPy 1.26.4"
    assert f"The software was {software}." in text
    assert "in automatic mixed precision (fp16). Only deterministic kernels were allowed." in text
    assert ["Deterministic kernels only", "yes", "all 11"] in rows(reported)
    assert ["Precision", "fp16", "all 11"] in rows(reported)
    assert "Of 9 experiments that started, 2 needed more than one run" in text
    assert "Of these, 1 continued from a checkpoint and 1 began again." in text
    assert "All resumed trainings are equal, bit for bit, to uninterrupted ones." in text
    seeds = section(reported, "Configuration")
    assert "Seeds 0, 1, 2 were used: 1 setting with 3 seeds and 7 settings with 2 seeds." in text
    assert "Completed so far: 1 setting with 2 seeds, 3 settings with 1 seed and 4 settings with 0 seeds." in text
    assert ["model", "ResNet20 (teacher), ResNet8 (student, distilled)", "all 17"] in rows(seeds)
    assert ["alpha", "0.25, 0.5", "12 of 17"] in rows(seeds)
    assert "history.json is not valid JSON" in section(reported, "Unreadable, and left out")
    assert "Runs differ" not in reported


def test_times_are_medians_and_ranges_of_completed_experiments_by_data_set_model_and_method(made: Folders) -> None:
    table = rows(section(markdown(facts_of(made, "charlie")), "Training time"))
    assert table[0] == ["Data set", "Model", "Method", "n", "Training (s)", "Job (s)"]
    assert [row[:4] for row in table[2:]] == [
        ["svhn", "ResNet112", "pure", "3"], ["svhn", "ResNet56", "pure", "3"], ["svhn", "ResNet56", "logit", "9"],
    ]  # fmt: skip


def test_training_and_job_hours_are_those_of_the_records(tmp_path: Path) -> None:
    place = small(tmp_path)
    experiments = load_round("small", place.rounds).experiments
    for number, one in enumerate(experiments[:3]):  # 1, 2 and 3 hours, of which 6 minutes are not training
        hours = (number + 1) * 3600.0
        attempt(place, one, 1, (1e9, 1e9 + hours), environment=ENVIRONMENT, metrics=trained(hours - 360))
    attempt(place, experiments[3], 1, (1e9, 1e9 + 1800), Cause.WALLTIME)
    attempt(place, experiments[3], 2, (1e9 + 3600, 1e9 + 9000), metrics={"epochs": "none"})
    reported = markdown(facts_of(place, "small"))
    (row,) = [row for row in rows(section(reported, "Training time")) if row[0].startswith("a_b")]
    assert row[3:] == ["4", "1.90 (0.90 to 2.90; 3 of 4)", "2.00 (1.00 to 3.00)"]
    # 1 + 2 + 3 + 0.5 + 1.5 hours of two GPUs
    assert "The jobs ran on 9 September 2001 and used 16.0 GPU-hours in 5 runs." in reported
    assert "(the earlier runs ended by: 1 walltime)" in reported


def test_older_records_have_seconds_epoch_by_epoch_only(tmp_path: Path) -> None:
    place = small(tmp_path)
    one = load_round("small", place.rounds).experiments[0]
    metrics = {**trained(0), "used": {}, "epochs": [{"epoch": 1, "seconds": 30}, {"epoch": 2, "seconds": 31.5}]}
    attempt(place, one, 1, (1e9, 1e9 + 100), metrics=metrics)
    assert rows(section(markdown(facts_of(place, "small")), "Training time"))[2][-2:] == ["61.5", "100"]


def test_times_are_never_medians_over_several_data_sets(tmp_path: Path) -> None:
    lines = [
        "round: small",
        "resources: {ncpus: 1, walltime: '1:00:00'}",
        "apart: [dataset]",
        "experiments: {run: {path: '{dataset}/{seed}', grid: {dataset: [a, b], seed: [0, 1]}, command: 'true'}}",
    ]
    place = small(tmp_path, "\n".join(lines))
    for one, seconds in zip(load_round("small", place.rounds).experiments, (60, 80, 3600, 3700), strict=True):
        attempt(place, one, 1, (1e9, 1e9 + seconds))
    text = prose(markdown(facts_of(place, "small")))
    assert "over all its runs, was 70.0 s for run on a (n = 2) and 60.8 min for run on b (n = 2)." in text


# ------------------------------------------------------------------------------------------------ clusters and settings

GPU_NODE = {"os": "Rocky Linux 8.9", "kernel": "Linux 4.18", "processor": "Xeon", "cores": 40, "driver": "535.54.03",
            "node_gpus": "4 Tesla V100-SXM2-32GB", "queue": "gpu"}  # fmt: skip
ON_GPU = {"queue": "gpu", "nodes": 9, "cores": 40, "memory_gb": 192, "gpus": 4, "gpu": "v100"}
ON_CPU = {"queue": "long", "nodes": 1359, "cores": 24, "memory_gb": 128, "gpus": 0, "gpu": ""}
NODES = {"version": 1, "scheduler": "slurm", "total": 1368, "kinds": [ON_GPU, ON_CPU]}


def test_a_cluster_its_nodes_and_its_settings_are_in_the_paragraph(tmp_path: Path) -> None:
    place = small(tmp_path)
    (place.experiments / "small" / "cluster.json").write_text(json.dumps(NODES))
    environment = {**ENVIRONMENT, **GPU_NODE, "tf32": "convolutions", "cudnn_benchmark": False}
    attempt(place, load_round("small", place.rounds).experiments[0], 1, (1e9, 1e9 + 60), environment=environment)
    reported = markdown(facts_of(place, "small"))
    text = prose(reported)
    nodes = "9 nodes with 40 cores, 192 GB of memory and 4 v100 GPUs"
    assert f"The cluster has 1,368 nodes; the partition gpu has {nodes}." in text
    assert "The node that was used has 40 logical cores (Xeon) and 4 Tesla V100-SXM2-32GB GPUs." in text
    assert "The operating system was Rocky Linux 8.9, with NVIDIA driver 535.54.03." in text
    settings = (
        "Only deterministic kernels were allowed, cuDNN benchmarking was off and TF32 was allowed in convolutions."
    )
    assert settings in text
    assert ["TF32", "convolutions", "the only one"] in rows(reported)
    assert "cluster" not in section(reported, "Not recorded") and "TF32" not in section(reported, "Not recorded")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({**NODES, "scheduler": "pbs", "kinds": [{**ON_GPU, "queue": ""}]}, "has 1,368 nodes: 9 nodes with"),
        ({**NODES, "kinds": []}, "The cluster has 1,368 nodes. "),
        ({**NODES, "total": 0}, None),
        ({**NODES, "total": "many"}, None),
        ({**NODES, "kinds": [{"queue": "gpu"}]}, None),
        ({**NODES, "version": 99}, None),
        ([], None),
    ],
)
def test_what_a_cluster_file_lacks_is_left_out(tmp_path: Path, content: Any, said: str | None) -> None:
    place = small(tmp_path)
    (place.experiments / "small" / "cluster.json").write_text(json.dumps(content))
    environment = {**ENVIRONMENT, **GPU_NODE}
    attempt(place, load_round("small", place.rounds).experiments[0], 1, (1e9, 1e9 + 60), environment=environment)
    text = prose(markdown(facts_of(place, "small")))
    assert "The jobs were run with Slurm on the cluster synthetic." in text
    assert (said in text) if said else ("The cluster has" not in text)


def test_the_gpus_of_a_command_are_those_of_its_node(tmp_path: Path) -> None:
    place = small(tmp_path, COMMANDS.replace("ncpus: 2", "ncpus: 2, ngpus: 1"))
    one = load_round("small", place.rounds).experiments[0]
    attempt(place, one, 1, (1e9, 1e9 + 60), environment={"python": "3.11.7", **GPU_NODE})
    text = prose(markdown(facts_of(place, "small")))
    assert "The computations were done on Tesla V100-SXM2-32GB GPUs." in text
    assert "Each job requested 2 cores, 1 GPU and 1 h of walltime." in text


def test_the_paragraphs_are_the_same_in_markdown_and_latex(made: Folders) -> None:
    facts = facts_of(made, "charlie_smoke")
    assert len(paragraphs(facts)) == 3
    assert all(in_markdown(one) in markdown(facts) and escaped(one) in latex(facts) for one in paragraphs(facts))


# -------------------------------------------------------------------------------------------------------- differences


def change(place: Folders, path: str, number: int, **values: object) -> None:
    file = record.attempt_directory(place.experiments / "mixed" / path, number) / "environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_differences_between_runs_come_first_with_counts_and_no_sentence_names_one_value(copied: Folders) -> None:
    change(copied, FAILED, 1, torch="2.5.0", model="A100", deterministic=False, edited=True, commit=None)
    reported = markdown(facts_of(copied, "mixed"))
    assert re.findall(r"^## (.*)$", reported, re.MULTILINE)[0] == "Runs differ"
    differ = section(reported, "Runs differ")
    assert "- PyTorch: 2.4.1+cu121 (10 of 11 runs), 2.5.0 (1 of 11 runs)." in differ
    assert "- Device: Tesla V100-SXM2-32GB (10 of 11 runs), A100 (1 of 11 runs)." in differ
    assert "- Deterministic kernels only: yes (10 of 11 runs), no (1 of 11 runs)." in differ
    assert "(10 of 11 runs), not recorded (1 of 11 runs)." in differ
    assert "- Runs of edited code: 1 of 11. The commit does not identify their code." in differ
    text = prose(reported)
    assert "PyTorch 2.4.1+cu121 (10 of 11 runs) and 2.5.0 (1 of 11 runs)" in text
    assert "Tesla V100-SXM2-32GB GPUs (10 of 11 runs) and A100 GPUs (1 of 11 runs)" in text
    assert "01234567 (10 of 11 runs) and not recorded for 1 run, with uncommitted changes in 1 of 11 runs." in text
    assert "Runs differ in deterministic" in text and "Only deterministic" not in text
    assert ["PyTorch", "2.4.1+cu121", "10 of 11"] in rows(reported)
    assert ["PyTorch", "2.5.0", "1 of 11"] in rows(reported)
    assert r"\paragraph{Runs differ.}" in latex(facts_of(copied, "mixed"))


def test_code_that_was_edited_alike_in_all_runs_is_reported_first_too(tmp_path: Path) -> None:
    place = small(tmp_path)
    one = load_round("small", place.rounds).experiments[0]
    attempt(place, one, 1, (1e9, 1e9 + 60), environment={**ENVIRONMENT, "edited": True})
    first = sections(facts_of(place, "small"))[0]
    assert first.title == "The code was edited"
    assert first.items == ["Runs of edited code: the only one. The commit does not identify their code."]


def test_resumes_that_were_approximate_are_counted(tmp_path: Path) -> None:
    place = small(tmp_path)
    for number, one in enumerate(load_round("small", place.rounds).experiments[:3]):
        attempt(place, one, 1, (1e9, 1e9 + 60), Cause.NODE, progress={"epoch": 3, "started_epoch": 0})
        resumed = {"epoch": 5, "started_epoch": 3}
        attempt(place, one, 2, (1e9 + 90, 1e9 + 120), progress=resumed, metrics=trained(60, exact=number == 0))
    reported = prose(markdown(facts_of(place, "small")))
    assert "Of 3 experiments that started, 3 needed more than one run (the earlier runs ended by: 3 node)." in reported
    assert "Of these, 3 continued from a checkpoint. 1 of 3 resumed trainings are equal, bit for bit" in reported


def test_attempts_in_which_no_job_started_are_no_runs(tmp_path: Path) -> None:
    place = small(tmp_path)
    one = load_round("small", place.rounds).experiments[0]
    directory = place.experiments / "small" / one.path
    for number, cause in ((1, Cause.REFUSED), (2, Cause.LIMIT)):
        record.open_attempt(directory, number, Opened(record.new_token(), SCHEDULER, one.config_hash(), {}))
        record.void(directory, number, cause, "no")
    attempt(place, one, 3, (1e9, 1e9 + 60), metrics=trained(50))
    reported = prose(markdown(facts_of(place, "small")))
    assert "in 1 run." in reported and "more than one run" not in reported


# ------------------------------------------------------------------------------------------------- whatever is recorded


def test_a_record_says_the_same_before_and_after_it_is_compacted(tmp_path: Path) -> None:
    place = small(tmp_path)
    one = load_round("small", place.rounds).experiments[0]
    attempt(place, one, 1, (1e9, 1e9 + 60), Cause.NODE, ENVIRONMENT, {"epoch": 1, "started_epoch": 0})
    directory = attempt(
        place, one, 2, (1e9 + 90, 1e9 + 190), Cause.COMPLETED, {**ENVIRONMENT, "torch": "2.5.0"},
        {"epoch": 2, "started_epoch": 1, "final": {"test_accuracy": 0.5}}, trained(60),
    )  # fmt: skip
    before = markdown(facts_of(place, "small"))
    history.compact(record.read(directory))
    assert record.read(directory).compacted
    assert markdown(facts_of(place, "small")) == before
    assert "2.5.0 (1 of 2 runs)" in before


def test_of_commands_only_what_they_recorded_is_reported(tmp_path: Path) -> None:
    place = small(tmp_path, COMMANDS)
    recorded = {"python": "3.11.7", "commit": None, "edited": None}
    for one in load_round("small", place.rounds).experiments[:2]:
        attempt(place, one, 1, (1e9, 1e9 + 60), Cause.NODE, recorded, {"epoch": 0, "started_epoch": 0})
        attempt(place, one, 2, (1e9 + 90, 1e9 + 120), Cause.COMPLETED, recorded, {"epoch": 0, "started_epoch": 0})
    reported = markdown(facts_of(place, "small"))
    text = prose(reported)
    assert "PyTorch" not in reported and "CUDA" not in reported and "precision" not in text
    assert "The software was Python 3.11.7." in text
    assert ["not recorded", "CPU", "4", "2", "gpu1, gpu2"] in rows(section(reported, "Devices"))
    assert "What commands load and set: their libraries, precision" in section(reported, "Not recorded")
    assert "2 needed more than one run (the earlier runs ended by: 2 node)." in text
    assert "checkpoint" not in text and "Seed" not in text and "began again" not in text
    assert "The median time of an experiment, over all its runs, was 90.0 s (n = 2)." in text
    assert rows(section(reported, "Training time"))[2] == ["run", "2", "not recorded", "90.0 (90.0 to 90.0)"]
    assert "used 0.10 CPU-hours in 4 runs." in text
    assert ["command of run", "python train\\_\\$it.py {size}", "all 3"] in rows(section(reported, "Configuration"))


def test_commands_that_no_single_key_explains_are_listed_up_to_a_number(tmp_path: Path) -> None:
    lines = COMMANDS.replace("run/{size}", "run/{size}/{part}").replace("[1, 2, 3]", "[1, 2, 3], part: [1, 2, 3, 4, 5]")
    place = small(tmp_path, lines.replace('"{size}"]', '"{size}x{part}"]'))
    reported = rows(section(markdown(facts_of(place, "small")), "Configuration"))
    named = [row[1:] for row in reported if row[0] == "command of run"]
    assert named[0] == ["python train\\_\\$it.py 1x1", "1 of 15"]
    assert len(named) == 13 and named[-1] == ["3 more", "3 of 15"]


def test_hours_that_would_be_shown_as_zero_are_not_divided(tmp_path: Path) -> None:
    place = small(tmp_path, COMMANDS)
    done, broken, _ = load_round("small", place.rounds).experiments
    attempt(place, done, 1, (1e9, 1e9 + 1))
    attempt(place, broken, 1, (1e9, 1e9 + 2), Cause.ERROR)
    assert "used less than 0.01 CPU-hours in 2 runs." in prose(markdown(facts_of(place, "small")))


def test_a_round_of_which_nothing_has_started_has_few_facts(tmp_path: Path) -> None:
    place = small(tmp_path)
    reported = markdown(facts_of(place, "small"))
    assert "Their states: 4 pending." in prose(reported) and "No job has run." in prose(reported)
    titles = re.findall(r"^## (.*)$", reported, re.MULTILINE)
    assert titles == ["Not recorded", "Resource requests", "Configuration"]
    assert latex(facts_of(place, "small")).count(r"\begin{longtable}") == 2


def test_without_a_round_file_resources_are_not_recorded(copied: Folders) -> None:
    (copied.rounds / "mixed.yaml").unlink()
    reported = markdown(facts_of(copied, "mixed"))
    assert "Resource requests are not recorded" in section(reported, "Resource requests")
    assert "job-hours" in reported
    assert "GPU-hours" not in reported


def test_an_archived_round_is_reported_like_any_other(copied: Folders) -> None:
    before = markdown(facts_of(copied, "mixed"))
    results = copied.results("mixed")
    results.mkdir(parents=True)
    shutil.move(copied.experiments / "mixed", results / "experiments")
    shutil.move(copied.rounds / "mixed.yaml", results / "mixed.yaml")
    assert markdown(facts_of(copied, "mixed")) == before


def test_shipped_records_have_what_they_were_trained_with(made: Folders) -> None:
    reported = markdown(facts_of(made, "charlie_smoke"))
    text = prose(reported)
    assert "The round charlie_smoke has 40 experiments in 3 groups (teacher 2, student 2, distilled 36)." in text
    assert "All of them were completed." in text
    assert "The jobs ran on 21 November 2026 and used" in text
    assert "The jobs were run with no batch scheduler, on the machine vm." in text
    assert "No experiment had to be restarted." in text
    assert "Only deterministic kernels were allowed and each run on a CPU used 1 thread." in text
    assert "the operating system" in section(reported, "Not recorded").lower() and "operating" not in text
    assert ["CPU threads", "1", "all 40"] in rows(reported)
    assert "Seeds 0, 1 were used: 20 settings with 2 seeds each." in text
    assert ["epochs", "10 (teacher), 6 (student, distilled)", "all 40"] in rows(reported)
    # Six runs each: three values of alpha, two seeds.
    assert ["digits", "ResNet8", "rkd", "6"] in [row[:4] for row in rows(section(reported, "Training time"))]


# ------------------------------------------------------------------------------------------------- Markdown and LaTeX


def rendered(text: str) -> str:
    """What a reader of rendered Markdown sees; fails on what would be markup or HTML."""
    seen = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        assert token.type != "html_block"
        for child in token.children or ():
            assert child.type == "text", child
            seen.append(child.content)
        seen.append("\n")
    return "".join(seen)


@given(st.text(max_size=60) | st.text("_*`[]()<>|~$#&;\\!a \n", max_size=20))
def test_any_text_is_shown_by_markdown_as_it_is(text: str) -> None:
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    assert rendered(f"- at: {in_markdown(text)}").strip() == f"at: {line}".strip()
    cells = rendered(f"| a | b |\n| --- | --- |\n| x {in_markdown(text)} | y |").split("\n")
    assert f"x {line}".strip() in cells
    assert "y" in cells


def test_hostile_names_are_reported_as_they_are(tmp_path: Path) -> None:
    place = small(tmp_path)
    hostile = {**ENVIRONMENT, "model": "<b>|`x`\\", "torch": "2_0_&50%#{}", "commit": "a\nb"}
    attempt(place, load_round("small", place.rounds).experiments[0], 1, (1e9, 1e9 + 60), environment=hostile)
    facts = facts_of(place, "small")
    shown = rendered(markdown(facts))
    for text in ("<b>|`x`\\", "2_0_&50%#{}", "a b", "a_b & 50%", "m|#1", "\\x ~ ^ {y} $z$ *[w]*"):
        assert text in shown
    assert r"2\_0\_\&50\%\#\{\}" in latex(facts)


@pytest.mark.parametrize("name", ["mixed", "charlie", "charlie_smoke"])
def test_latex_is_well_formed(made: Folders, name: str) -> None:
    text = latex(facts_of(made, name))
    bare = re.sub(r"\\[\\{}%&_#$]", "", text)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"[$#]|(?<!\\)_", re.sub(r"\\label\{[^}]*\}|^%.*", "", bare, flags=re.MULTILINE))
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(set(labels)) == len(labels) >= 5
    for spec, body in re.findall(r"\\begin\{longtable\}\{(.*)\}\n((?s:.*?))\\end\{longtable\}", text):
        columns = len(re.sub(r"\{.*\}", "", spec))
        lines = [line for line in body.splitlines() if " & " in line]
        assert lines
        assert {line.replace(r"\&", "").count("&") + 1 for line in lines} == {columns}
    for word in ("toprule", "midrule", "bottomrule"):
        assert f"\\{word}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex (package texlive-latex-base)")
@pytest.mark.parametrize("name", ["mixed", "charlie", "charlie_smoke"])
def test_latex_compiles_the_chapter(made: Folders, tmp_path: Path, name: str) -> None:
    head = r"\documentclass{article}\usepackage{booktabs,longtable}\begin{document}"
    (tmp_path / "all.tex").write_text("\n".join([head, latex(facts_of(made, name)), r"\end{document}"]))
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


# ---------------------------------------------------------------------------------------------------------- the script


def call(*options: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(REPOSITORY / "analysis" / "methodology.py")]
    return subprocess.run([*script, *options], check=False, capture_output=True, text=True, cwd="/")


def folders(place: Folders) -> list[str]:
    return [str(one) for name in ("experiments", "rounds", "analysis") for one in (f"--{name}", getattr(place, name))]


@pytest.mark.parametrize(
    ("form", "files"),
    [("md", ["methodology.md"]), ("latex", ["methodology.tex"]), ("both", ["methodology.md", "methodology.tex"])],
)
def test_the_files_requested_are_written_and_printed_and_nothing_else_changes(
    made: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, files: list[str]
) -> None:
    before = snapshot(made.experiments.parent)
    place = Folders(made.experiments, made.rounds, tmp_path)
    assert methodology.main(["--round", "mixed", "--format", form, *folders(place)]) == 0
    reported = capsys.readouterr()
    assert reported.out.splitlines() == [str(tmp_path / "experiment_mixed" / name) for name in files]
    assert len(reported.err.splitlines()) == 2, "what could not be read"
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == files
    assert snapshot(made.experiments.parent) == before
    again = snapshot(tmp_path)
    assert methodology.main(["--round", "mixed", "--format", form, *folders(place)]) == 0
    assert {name: hashed for name, (_, hashed) in snapshot(tmp_path).items()} == {
        name: hashed for name, (_, hashed) in again.items()
    }


def test_mistakes_are_one_line_and_exit_code_2(made: Folders, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    no_room = Folders(made.experiments, made.rounds, tmp_path / "file")
    for options in (["--round", "mixd", *folders(made)], ["--round", "charlie_smoke", *folders(no_room)]):
        done = call(*options)
        assert done.returncode == 2
        assert done.stderr.startswith("methodology.py: ")
        assert len(done.stderr.splitlines()) == 1
    assert "did you mean 'mixed'?" in call("--round", "mixd", *folders(made)).stderr


def test_help_names_the_formats() -> None:
    done = call("--help")
    assert done.returncode == 0
    assert "--format {md,latex,both}" in done.stdout
