"""The rounds of studies/flow_matching: the document's hundred versions, the base, the controls and the follow-ups.

The list of versions is built here once more, from the document's rules, and compared with the one in the round file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from cluster_helpers import pbs_rounds
from fake_pbs import FakePBS
from rounds_for_tests import REPOSITORY

from roundhouse.config.round import Round, load_round
from roundhouse.model.experiment import Experiment
from roundhouse.options import read_options
from roundhouse.settings import split_config
from studies.flow_matching.check import check
from studies.flow_matching.options import COMPLEXITIES, TECHNIQUES, Options

ROUNDS = ("improvements", "improvements_smoke", "improvements_cpu")
PAGE = REPOSITORY / "studies/flow_matching/README.md"
ALL = tuple(range(1, 11))
FOLLOW_UPS = {"longer", "longer_base", "generalisation_best", "generalisation_document", "generalisation_base"}


def documented() -> Iterator[tuple[int, ...]]:
    """The technique sets of v3, v4, ... v102, by the document's rules."""
    yield from combinations(ALL, 1)
    yield from combinations(ALL, 2)
    yield from combinations(range(1, 6), 3)
    for pair, others in (
        ((1, 6), (2, 3, 4, 5, 7, 8, 9, 10)),
        ((1, 7), (2, 3, 4, 5, 8, 9, 10)),
        ((2, 6), (3, 4, 5, 7, 8, 9, 10)),
        ((2, 7), (3, 4, 5)),
    ):
        for other in others:
            yield tuple(sorted((*pair, other)))
    yield from combinations(range(1, 6), 4)
    yield (1, 2, 3, 4, 5)
    yield (1, 2, 3, 4, 5, 7)
    for left_out in (10, 9, 8):
        yield tuple(number for number in ALL if number != left_out)


@cache
def loaded(name: str) -> Round:
    return load_round(name, REPOSITORY / "rounds")


def group(name: str, round_name: str = "improvements") -> list[Experiment]:
    found = [one for one in loaded(round_name).experiments if one.group == name]
    assert found, f"{round_name} has no group {name}"
    return found


def options_of(experiment: Experiment) -> Options:
    return read_options(Options, split_config(experiment.config)[1])


def technique_sets(experiments: list[Experiment]) -> dict[int, tuple[int, ...]]:
    return {one.config["version"]: options_of(one).technique_numbers for one in experiments}


def dry_run(name: str, records: Path, *options: str) -> str:
    """`records`: a directory without any, because those of the checkout may belong to a round that has run."""
    command = [sys.executable, "runner.py", "--round", name, "--dry-run", "--scheduler", "local"]
    command += ["--experiments", str(records / "experiments"), *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    refused = [line for line in (done.stdout + done.stderr).splitlines() if "cannot start" in line]
    assert all("this host has none" in line for line in refused), "refused for another reason than a missing GPU"
    return done.stdout


def paths_in(printed: str) -> list[str]:
    """The experiments that a dry run lists; without a GPU, those that need one are blocked."""
    return re.findall(r"^(?:submit|pending|blocked) +(\S+) ", printed, re.MULTILINE)


def test_the_round_file_has_the_documents_hundred_versions() -> None:
    expected = dict(enumerate(documented(), start=3))
    assert (len(expected), max(expected), len(set(expected.values()))) == (100, 102, 100)
    assert Counter(map(len, expected.values())) == {1: 10, 2: 45, 3: 35, 4: 5, 5: 1, 6: 1, 9: 3}
    assert technique_sets(group("versions")) == expected
    assert len(group("versions")) == 100, "one seed each"
    assert [one.path for one in group("versions")] == [f"v{version}/0" for version in expected]


def test_the_versions_stand_in_the_round_file_as_text() -> None:
    """What version 42 is can be read in the file, without running code; numbers are written as the paths show them."""
    content = yaml.safe_load((REPOSITORY / "rounds/improvements.yaml").read_text())
    written = content["experiments"]["versions"]["zip"]
    assert written["version"] == list(range(3, 103))
    assert written["techniques"] == ["+".join(map(str, numbers)) for numbers in documented()]


@pytest.mark.parametrize("name", ["improvements", "improvements_smoke"])
def test_the_base_and_all_ten_are_beside_them(name: str) -> None:
    seeds = {"improvements": range(5), "improvements_smoke": range(2)}[name]
    assert [one.path for one in group("base", name)] == [f"v2/{seed}" for seed in seeds]
    assert technique_sets(group("base", name)) == {2: ()}
    assert technique_sets(group("all_ten", name)) == {103: tuple(TECHNIQUES)}
    assert technique_sets(group("versions", name)) == technique_sets(group("versions"))


def test_the_full_round_has_the_documents_size() -> None:
    for one in loaded("improvements").experiments:
        pack = one.resources.pack
        assert pack is not None
        assert (pack.slots, pack.per_gpu, one.resources.ngpus, one.resources.max_running) == (8, 2, 4, 1)
    (options,) = {
        (one.epochs, one.d_model, one.num_layers, one.heads, one.batch_size, one.complexity, one.locality, one.size)
        for one in map(options_of, [*group("base"), *group("versions"), *group("all_ten")])
    }
    assert options == (100, 128, 4, 8, 32, "simple", "distance", 32)


def differences(experiment: Experiment) -> dict[str, object]:
    """The options of an experiment that are not those of v2."""
    base, own = options_of(group("base")[0]), options_of(experiment)
    return {key: value for key, value in vars(own).items() if value != vars(base)[key]}


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("regression", {"method": "regression"}),
        ("control_patch", {"query_pattern": "patch"}),
        ("control_schedule", {"schedule": "warmup_cosine"}),
        ("logit_normal", {"version": 10, "techniques": "8", "noise_schedule": "logit_normal"}),
    ],
)
def test_a_control_is_the_base_except_for_one_thing(name: str, difference: dict[str, object]) -> None:
    assert all(differences(one) == difference for one in group(name))
    assert len(group(name)) >= 3


@pytest.mark.parametrize("name", ROUNDS)
def test_control_steps_trains_as_long_as_reflow(name: str) -> None:
    (reflow,) = {
        (one.epochs + one.second_phase_epochs, one.fields, one.batch_size)
        for one in map(options_of, group("versions", name))
        if one.technique_numbers == (1,)
    }
    for one in map(options_of, group("control_steps", name)):
        assert (one.epochs, one.fields, one.batch_size) == reflow
        assert (one.technique_numbers, one.method) == ((), "flow")


def test_the_documents_own_base_is_shown_without_the_distance_term() -> None:
    singles = technique_sets(group("versions"))
    expected = {2: (), **{version: singles[version] for version in range(3, 13)}}
    assert technique_sets(group("document_base")) == expected
    assert all(differences(one)["locality"] == "none" for one in group("document_base"))
    assert all(one.path.startswith("document_base/v") for one in group("document_base"))


@pytest.mark.parametrize("name", ROUNDS)
def test_every_group_of_flows_has_its_baseline(name: str) -> None:
    baselines, present = loaded(name).baselines, {one.group for one in loaded(name).experiments}
    expected = dict.fromkeys(present - {"base", "regression", "generalisation_base", "longer_base"}, "base")
    expected |= dict.fromkeys(present & {"generalisation_best", "generalisation_document"}, "generalisation_base")
    expected |= dict.fromkeys(present & {"longer"}, "longer_base")
    assert {group: baseline for group, baseline in baselines.items() if baseline} == expected


@pytest.mark.parametrize("name", ["improvements", "improvements_smoke"])
def test_follow_ups_choose_by_validation_and_get_new_seeds(name: str) -> None:
    rules = {
        key: value["select"]
        for key, value in yaml.safe_load((REPOSITORY / "rounds/improvements.yaml").read_text())["experiments"].items()
        if "select" in value
    }
    assert {group: rule["top"] for group, rule in rules.items()} == {"longer": 10, "generalisation_best": 1}
    of_the_choice = {one.config["seed"] for kind in ("versions", "all_ten") for one in group(kind, name)}
    for kind, rule in rules.items():
        assert rule["metric"] == "val_psnr", "test data must not be used for choices"
        assert (rule["mode"], rule["from"]) == ("max", ["versions", "all_ten"])
        assert rule["inputs"] is False
        for one in group(kind, name):
            assert one.undecided
            assert one.config["seed"] not in of_the_choice


def test_generalisation_runs_on_all_six_families() -> None:
    for name in ("generalisation_best", "generalisation_document", "generalisation_base"):
        pairs = [(one.config["complexity"], one.config["seed"]) for one in group(name)]
        assert {complexity for complexity, _ in pairs} == set(COMPLEXITIES)
        assert len(set(pairs)) == len(pairs) == 6 * len({seed for _, seed in pairs})
        assert {one.config["epochs"] for one in group(name)} == {200}
    assert {one.config["epochs"] for name in ("longer", "longer_base") for one in group(name)} == {500}
    assert set(technique_sets(group("generalisation_document")).values()) == {(1, 2, 3, 4, 5)}
    assert set(technique_sets(group("generalisation_base")).values()) == {()}
    seeds = [{one.config["seed"] for one in group(name)} for name in FOLLOW_UPS - {"longer", "longer_base"}]
    assert seeds[0] == seeds[1] == seeds[2], "the comparison is between equal seeds"


def test_the_base_comes_first_and_the_follow_ups_last() -> None:
    levels: dict[float, set[str]] = {}
    for one in loaded("improvements").experiments:
        levels.setdefault(one.priority, set()).add(one.group)
    ordered = [levels[priority] for priority in sorted(levels, reverse=True)]
    assert ordered[0] == {"base"}
    assert ordered[-1] == FOLLOW_UPS


def test_the_round_for_a_cpu_has_seeds_for_singles_and_pairs() -> None:
    counts = Counter(options_of(one).technique_numbers for one in group("versions", "improvements_cpu"))
    assert set(counts.values()) == {3}
    full = {numbers: version for version, numbers in technique_sets(group("versions")).items()}
    for version, numbers in technique_sets(group("versions", "improvements_cpu")).items():
        assert full[numbers] == version, "a version has the same number in every round"
    singles = {numbers for numbers in counts if len(numbers) == 1}
    pairs = {numbers for numbers in counts if len(numbers) == 2}
    assert singles == set(combinations(ALL, 1))
    paired = sorted({number for numbers in pairs for number in numbers})
    assert pairs == set(combinations(paired, 2)), "all pairs of the techniques that have any"
    assert len(pairs) >= 3
    assert {kind: len(group(kind, "improvements_cpu")) for kind in ("base", "regression", "control_steps")} == {
        "base": 5, "regression": 5, "control_steps": 3,
    }  # fmt: skip
    assert not {one.group for one in loaded("improvements_cpu").experiments} & FOLLOW_UPS
    assert all(one.resources.ngpus == 0 for one in loaded("improvements_cpu").experiments)


@pytest.mark.parametrize("name", ROUNDS)
def test_every_config_passes_the_studys_check(name: str) -> None:
    checked = 0
    for one in loaded(name).experiments:
        if not one.undecided:
            check(split_config(one.config)[1], None)
            checked += 1
    assert checked > 0.8 * len(loaded(name).experiments)


@pytest.mark.parametrize("name", ROUNDS)
def test_a_dry_run_lists_the_whole_round(name: str, tmp_path: Path) -> None:
    listed = paths_in(dry_run(name, tmp_path))
    assert listed == [one.path for one in loaded(name).experiments]


def test_on_a_cluster_one_allocation_with_eight_slots_runs_it(fake_pbs: FakePBS, tmp_path: Path) -> None:
    with pbs_rounds(fake_pbs, tmp_path) as rounds:
        shutil.copy(REPOSITORY / "rounds/improvements.yaml", rounds.rounds)
        done = rounds.call("--dry-run", name="improvements")
    assert done.returncode == 0, done.stderr
    assert "1 allocation of 8 slots would be submitted" in done.stdout
    assert "16 cores, 4 GPUs, 64 GB, 24:00:00 for 8 slots" in done.stdout


def test_a_pattern_selects_exactly_one_version(tmp_path: Path) -> None:
    listed = paths_in(dry_run("improvements", tmp_path, "--only", "*v42*"))
    assert listed == ["v42/0"]
    assert [one.path for one in loaded("improvements").experiments if fnmatchcase(one.path, "*v42*")] == listed


def page_rounds() -> dict[str, str]:
    """The round files that the study's page shows, by name."""
    blocks = re.findall(r"^```yaml\n(round: (\w+)\n.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return {name: text for text, name in blocks}


def expanded(name: str, folder: Path) -> list[Experiment]:
    """The experiments of a round of the page, as the runner prints and loads it."""
    for existing in (REPOSITORY / "rounds").glob("improvements*.yaml"):
        (folder / existing.name).write_text(existing.read_text())
    (folder / f"{name}.yaml").write_text(page_rounds()[name])
    printed = dry_run(name, folder, "--rounds", str(folder))
    experiments = load_round(name, folder).experiments
    assert paths_in(printed) == [one.path for one in experiments]
    return list(experiments)


def test_the_page_has_a_round_for_each_of_the_documents_variables_and_for_a_single_run() -> None:
    assert set(page_rounds()) == {
        "improvements_radial", "improvements_200_epochs", "improvements_one_per_gpu", "improvements_wide",
        "improvements_deep", "improvements_try",
    }  # fmt: skip
    for name, text in page_rounds().items():
        assert len(text.splitlines()) <= 5, f"{name} has more than five lines"


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("improvements_radial", "complexity", "radial"),
        ("improvements_200_epochs", "epochs", 200),
        ("improvements_wide", "d_model", 256),
        ("improvements_deep", "num_layers", 8),
    ],
)
def test_a_round_of_the_page_changes_one_option_of_every_version(
    name: str, key: str, value: object, tmp_path: Path
) -> None:
    experiments = expanded(name, tmp_path)
    full = [*group("base"), *group("versions"), *group("all_ten")]
    assert [one.path for one in experiments] == [one.path for one in full]
    assert [one.config for one in experiments] == [{**one.config, key: value} for one in full]


def test_the_round_of_the_page_with_one_job_on_a_gpu(tmp_path: Path) -> None:
    experiments = expanded("improvements_one_per_gpu", tmp_path)
    (pack,) = {one.resources.pack for one in experiments}
    assert pack is not None
    assert (pack.slots, pack.per_gpu) == (4, 1)
    assert {one.resources.ngpus for one in experiments} == {4}
    assert [one.path for one in experiments] == [one.path for one in loaded("improvements").experiments]


def test_the_round_of_the_page_for_a_single_run(tmp_path: Path) -> None:
    (one,) = expanded("improvements_try", tmp_path)
    assert one.path == "v42/0"
    assert options_of(one).technique_numbers == (1, 2, 3)
    assert options_of(one).epochs == 100


def test_the_page_counts_the_runs_of_each_round_and_group() -> None:
    page = PAGE.read_text()
    for name in ROUNDS:
        counted = re.findall(rf"^\| `{name}` \|.*\| (\d+) \|$", page, re.MULTILINE)
        assert counted == [str(len(loaded(name).experiments))], name
    table = page.partition("| group of `improvements` |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?`) \|.*\| (\d+) \|$", table, re.MULTILINE)
    counts = {one: int(count) for names, count in rows for one in [tuple(re.findall(r"`(\w+)`", names))]}
    assert counts == {names: sum(len(group(one)) for one in names) for names in counts}
    assert sum(counts.values()) == len(loaded("improvements").experiments)


def test_the_page_explains_every_option_and_technique() -> None:
    page = PAGE.read_text()
    table = page.partition("## Options")[2].partition("\n## ")[0]
    for key in Options.__dataclass_fields__:
        assert f"`{key}`" in table, f"the option {key} is not described"
    for number, name in TECHNIQUES.items():
        section = page.partition(f"### {number}. {name}\n")[2].partition("\n### ")[0].partition("\n## ")[0]
        for part in ("    ", "Paper:", "Cost:", "Trap:", "Measured:"):
            assert part in section, f"the section of technique {number} has no {part!r}"
