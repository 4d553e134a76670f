"""Round files that extend another round: what takes precedence, which file a mistake is in, and real rounds.

Three things are most likely to go wrong, and come first: a value of the other round that survives in a place with
precedence (`when`, a sweep, an anchor that groups share); a key that is fixed here and swept there; and a mistake that
is reported in the wrong file.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds_for_tests import REPOSITORY, Rounds, rounds  # noqa: F401
from shipped_rounds import unpack

from analysis.rounds import Folders, read_round
from roundhouse.config.round import Round, load_round
from roundhouse.errors import RoundhouseError
from roundhouse.model.experiment import Experiment

Load = Callable[..., Round]

BASE = """\
round: base
study: s
priority: 1
resources:
  ncpus: 4
  mem: 8gb
  walltime: "4:00:00"
  when:
    - {if: "data == 'y'", walltime: "9:00:00"}
defaults: {epochs: 100, width: 3}
retry: {memory: 3, walltime: {tries: 4, factor: 3}, error: 1}
experiments:
  teacher:
    path: "{data}/{model}/{seed}"
    grid: {data: &data [x, y], seed: [0, 1]}
    config: {model: large, epochs: 200}
    priority: 10
    resources: &resources
      ngpus: 1
      when:
        - {if: "data == 'y'", mem: 32gb}
  student:
    path: "{data}/{model}/{teacher}/{lr}/{seed}"
    grid: {data: *data, lr: [0.1, 0.2], seed: [0, 1]}
    config: {model: small, teacher: large}
    exclude: [{data: y, lr: 0.2}]
    after: {teacher: {data: "{data}", seed: "{seed}"}}
    resources: *resources
    baseline: plain
  plain:
    path: "{data}/{model}/{seed}"
    grid: {data: *data, seed: [0, 1]}
    config: {model: small}
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a round that extends BASE, or other files."""
    (tmp_path / "base.yaml").write_text(BASE)

    def read(text: str, name: str = "small", **others: str) -> Round:
        for other, content in others.items():
            (tmp_path / f"{other}.yaml").write_text(textwrap.dedent(content))
        head = "" if text.startswith("round:") else f"round: {name}\nextends: base\n"
        (tmp_path / f"{name}.yaml").write_text(head + textwrap.dedent(text))
        return load_round(name, tmp_path)

    return read


def by_path(loaded: Round, group: str = "") -> dict[str, Experiment]:
    return {one.path: one for one in loaded.experiments if not group or one.group == group}


def mistakes(load: Load, text: str, **others: str) -> list[str]:
    with pytest.raises(RoundhouseError) as caught:
        load(text, **others)
    return [re.sub(r"^/\S*/(\w+\.yaml:)", r"\1", line) for line in str(caught.value).splitlines()]


# ---------------------------------------------------------------------------------------------- the three risks


FOCUS = """\
round: focused
study: s
experiments:
  tuned:
    path: "{focus}/lr_{lr}_width_{width}/{seed}"
    grid: {seed: [0, 1]}
    config: {lr: 0.1, width: 3}
    focus: {rate: {grid: {lr: [0.2, 0.4]}}, size: {grid: {width: [2, 4]}}}
"""


def test_a_key_of_focus_keeps_the_value_that_it_has_in_the_other_sub_sweeps(load: Load) -> None:
    changed = "{tuned: {grid: {seed: [0]}, focus: {rate: {grid: {lr: [0.3]}}}}}"
    text = f"round: small\nextends: focused\nexperiments: {changed}\n"
    paths = [one.path for one in load(text, focused=FOCUS).experiments]
    assert paths == ["rate/lr_0.3_width_3/0", "size/lr_0.1_width_2/0", "size/lr_0.1_width_4/0"]


def test_requests_of_this_file_override_all_of_the_other_round_its_conditions_included(load: Load) -> None:
    loaded = load("""\
        resources:
          ncpus: 1
          ngpus: 0
          walltime: 600
          when: [{if: "data == 'x'", ncpus: 2}]
        experiments:
          plain: {resources: {ncpus: 3}}
    """)
    found = {path: one.resources for path, one in by_path(loaded).items()}
    teachers = found["x/large/0"], found["y/large/0"]
    assert [(one.ncpus, one.ngpus, one.mem_mb, one.walltime_s) for one in teachers] == [
        (2, 0, 8192, 600), (1, 0, 32768, 600)
    ]  # fmt: skip
    assert [(one.ncpus, one.walltime_s) for one in (found["x/small/0"], found["y/small/0"])] == [(3, 600), (3, 600)]
    assert found["y/small/large/0.1/0"] == found["y/large/0"], "groups that share an anchor stay independent"


def test_a_key_that_is_fixed_here_is_no_longer_swept_there_in_whatever_way(load: Load) -> None:
    other = """\
        round: other
        study: s
        experiments:
          g:
            path: "{a}_{b}_{c}_{d}_{e_name}_{f}_{focus}_{seed}"
            grid: {a: [1, 2], seed: [0]}
            zip: {b: [1, 2], c: [3, 4]}
            random: {count: 2, seed: 5, d: {choice: [7]}}
            combinations: {e: {of: [p, q], sizes: [1]}}
            focus: {one: {grid: {f: [1, 2]}}, two: {grid: {f: [1], g: [1, 2]}}}
            config: {f: 0}
            include: [{a: 9, b: 9, c: 9, d: 9, e: [p], focus: one, seed: 1}]
    """
    text = """\
        round: small
        extends: other
        defaults: {a: 5, b: 5, d: 5, e: [q], g: 5, seed: 5}
        experiments: {g: {config: {f: 6}}}
    """
    (one, two, three) = (
        by_path(load(textwrap.dedent(text.replace("{g: {", "{g: {path: '{c}', ")), other=other))
    ).values()
    assert [found.path for found in (one, two, three)] == ["3", "4", "9"]
    assert one.config == {"a": 5, "b": 5, "c": 3, "d": 5, "e": ["q"], "f": 6, "g": 5, "seed": 5}
    assert three.config == {**one.config, "c": 9, "focus": "one"}


def test_each_mistake_is_reported_in_the_file_that_contains_it(load: Load) -> None:
    broken = BASE.replace("ngpus: 1\n", "ngpu: 1\n").replace("epochs: 200}", "epochs: 2020-01-01}")
    assert mistakes(load, "defaults: {epochs: 3}\n", base=broken) == [
        "base.yaml:16: 2020-01-01 is a date in YAML: quote it",
        "base.yaml:19: unknown key 'experiments.student.resources.ngpu': did you mean 'ngpus'?",
        "base.yaml:19: unknown key 'experiments.teacher.resources.ngpu': did you mean 'ngpus'?",
    ]
    text = """\
        resourcs: {ncpus: 1}
        experiments:
          teacher: {grid: {seed: 0}, halving: {evry: 1}, path: 5}
          student: {grids: {}}
    """
    assert mistakes(load, text) == [
        "small.yaml:3: unknown key 'resourcs': did you mean 'resources'?",
        "small.yaml:5: experiments.teacher.grid.seed should be a list, not 0",
        "small.yaml:5: experiments.teacher.path should be text, not 5",
        "small.yaml:5: unknown key 'experiments.teacher.halving.evry': did you mean 'every'?",
        "small.yaml:6: unknown key 'experiments.student.grids': did you mean 'grid'?",
    ]


def test_a_mistake_that_arises_from_both_files_names_both(load: Load) -> None:
    text = """\
        experiments:
          teacher: {grid: {lr: [1, 2]}}
          student:
            grid: {data: [x, z]}
            resources: {when: [{if: "sed == 1", ncpus: 1}]}
    """
    problems = mistakes(load, text)
    assert [one.partition(": ")[0] for one in problems] == ["small.yaml:7", "base.yaml:14", "base.yaml:27"]
    assert "did you mean 'seed'? (in group 'student')" in problems[0]
    assert problems[1].endswith("they differ in lr; add a key that differs to the path (as small.yaml extends it)")
    assert "no experiment of group 'teacher' matches `after` for z/" in problems[2]


# ---------------------------------------------------------------------------------------------- precedence

KEYS = st.sampled_from("abc")
CONFIGS = st.dictionaries(KEYS, st.integers(0, 3))
GRIDS = st.dictionaries(KEYS, st.lists(st.integers(0, 3), min_size=1, max_size=2, unique=True))


@settings(deadline=None)
@given(base=st.tuples(CONFIGS, CONFIGS, GRIDS), own=st.tuples(CONFIGS, CONFIGS, GRIDS))
def test_this_file_takes_precedence_over_the_other_one_and_in_each_sweeps_do_over_config_and_config_over_defaults(
    base: tuple[dict[str, int], dict[str, int], dict[str, list[int]]],
    own: tuple[dict[str, int], dict[str, int], dict[str, list[int]]],
) -> None:
    path = "{a}_{b}_{c}"
    lowest = dict.fromkeys("abc", 9)
    layers = [lowest, *base, *own]
    group = {"path": path, "config": base[1], **({"grid": base[2]} if base[2] else {})}
    change = {"config": own[1], **({"grid": own[2]} if own[2] else {})}
    with TemporaryDirectory() as folder:
        for name, content in {
            "base": {"study": "s", "defaults": {**lowest, **base[0]}, "experiments": {"g": group}},
            "own": {"extends": "base", "defaults": own[0], "experiments": {"g": change}},
        }.items():
            (Path(folder) / f"{name}.yaml").write_text(yaml.safe_dump({"round": name, **content}))
        found = {one.path for one in load_round("own", Path(folder)).experiments}

    values = []
    for key in "abc":
        last: Any = next(layer[key] for layer in reversed(layers) if key in layer)  # type: ignore[index]
        values.append(last if isinstance(last, list) else [last])
    assert found == {f"{a}_{b}_{c}" for a in values[0] for b in values[1] for c in values[2]}


def test_groups_keep_their_order_and_everything_that_is_not_changed(load: Load) -> None:
    loaded, base = load(""), load(BASE, "base")
    assert [(one.path, one.config, one.resources, one.priority) for one in loaded.experiments] == [
        (one.path, one.config, one.resources, one.priority) for one in base.experiments
    ]
    assert [one.config_hash() for one in loaded.experiments] == [one.config_hash() for one in base.experiments]
    assert {one.round for one in loaded.experiments} == {loaded.name} == {"small"}
    assert loaded.baselines == {"student": "plain"}
    assert [file.name for file in loaded.files] == ["small.yaml", "base.yaml"]


def test_the_other_keys_of_round_and_group_are_merged_or_replaced(load: Load) -> None:
    loaded = load("""\
        study: t
        priority: 7
        snapshot: true
        retry: {memory: {factor: 1.5}, walltime: 2, error: 5}
        experiments:
          teacher: {priority: 8, exclude: [{seed: 1}]}
          student: {exclude: null, after: null, baseline: null, resources: null}
          plain: {study: u, grid: {width: [4, 5], seed: [3]}, path: "{data}/{width}/{seed}"}
          more: {path: more, config: {data: x}, command: "echo {epochs}", after: [plain]}
    """)
    retry = loaded.experiments[0].retry
    assert (retry.memory.tries, retry.memory.factor) == (3, 1.5)
    assert (retry.walltime.tries, retry.walltime.factor, retry.error) == (2, 3, 5)
    assert {one.group: (one.study, one.priority) for one in loaded.experiments} == {
        "teacher": ("t", 8), "student": ("t", 7), "plain": ("u", 7), "more": (None, 7),
    }  # fmt: skip
    assert [*by_path(loaded, "teacher")] == ["x/large/0", "y/large/0"]
    students = by_path(loaded, "student")
    assert len(students) == 8, "nothing is excluded"
    assert not students["y/small/large/0.2/0"].after
    assert students["y/small/large/0.2/0"].resources.ngpus == 0
    assert [*by_path(loaded, "plain")] == ["x/4/3", "x/5/3", "y/4/3", "y/5/3"], (
        "its own keys come first, in their order"
    )
    assert by_path(loaded)["more"].after == {"plain": ("x/4/3", "x/5/3", "y/4/3", "y/5/3")}
    assert loaded.baselines == {}


def test_halving_and_select_are_changed_key_by_key_and_removed_by_null(load: Load) -> None:
    other = """\
        round: other
        study: s
        experiments:
          sweep: {path: "s/{lr}", grid: {lr: [1, 2, 3]}, halving: {metric: loss, mode: min, every: 10}}
          best: {path: "b/{rank}", select: {from: sweep, metric: loss, mode: min, top: 3}}
    """
    text = "round: small\nextends: other\nexperiments: {sweep: {halving: {every: 2}}, best: {select: {top: 1}}}\n"
    loaded = load(text, other=other)
    (halving,) = {one.halving for one in loaded.experiments if one.group == "sweep"}
    assert halving
    assert (halving.metric, halving.every, halving.keep) == ("loss", 2, 0.5)
    assert [*by_path(loaded, "best")] == ["b/1"]
    middle = "round: middle\nextends: other\ngroups: [sweep]\nexperiments: {sweep: {halving: null}}\n"
    plain = load("round: small\nextends: middle\n", middle=middle)
    assert [one.halving for one in plain.experiments] == [None, None, None]
    nothing = other.replace("halving: {metric: loss, mode: min, every: 10}", "halving: null")
    changed = load(text.replace("every: 2", "every: 2, metric: loss, mode: max"), other=nothing)
    assert {one.halving.mode for one in changed.experiments if one.halving} == {"max"}


def test_a_key_can_be_swept_here_in_another_way_and_sub_sweeps_can_be_added(load: Load) -> None:
    other = """\
        round: other
        study: s
        experiments:
          g: {path: "{a}_{b}", grid: {a: [1, 2], b: [1, 2]}}
          f: {path: "{focus}_{a}", config: {a: 0}, focus: {one: {grid: {a: [1]}}}}
    """
    text = """\
        experiments:
          g: {random: {count: 1, a: {choice: [7]}}, zip: {b: [3, 4]}}
          f: {focus: {two: {grid: {a: [2]}}}}
    """
    loaded = load("round: small\nextends: other\n" + textwrap.dedent(text), other=other)
    assert [*by_path(loaded)] == ["7_3", "7_4", "one_1", "two_2"]


def test_what_the_other_round_excludes_may_not_exist_here(load: Load) -> None:
    assert len(load("experiments: {student: {grid: {lr: [0.1]}}}\n").experiments) == 12
    fixed = load("defaults: {data: y}\n")
    assert [*by_path(fixed, "student")] == ["y/small/large/0.1/0", "y/small/large/0.1/1"], "it is still excluded"
    assert len(by_path(load("defaults: {data: x}\n"), "student")) == 4
    own = "experiments: {student: {exclude: [{lr: 7}]}}\n"
    assert mistakes(load, own) == ["small.yaml:3: exclude matches no combination of group 'student'"]


def test_groups_selects_groups_and_names_what_is_missing(load: Load) -> None:
    loaded = load("groups: [student, teacher]\nexperiments: {new: {path: new, config: {data: x}}}\n")
    assert [*dict.fromkeys(one.group for one in loaded.experiments)] == ["teacher", "student", "new"]
    assert loaded.baselines == {}, "the baseline is not part of this round"
    assert [
        one.group for one in load("groups: []\nexperiments: {new: {path: new, config: {data: x}}}\n").experiments
    ] == ["new"]
    text = """\
        groups: [student, plian]
        experiments: {plain: {priority: 3}, techer: {priority: 3}, new: {path: new, priority: 3}}
    """
    assert mistakes(load, text) == [
        "small.yaml:3: groups leaves out 'teacher', on which group 'student' depends: add it, or change 'student' here",
        "small.yaml:3: round base has no group 'plian': did you mean 'plain'?",
        "small.yaml:4: experiments.techer needs the key 'path', or the name of a group of round base: did you mean "
        "'teacher'?",
        "small.yaml:4: group 'plain' of round base is changed here, but `groups` leaves it out",
    ]
    assert len(load("groups: [student]\nexperiments: {student: {after: null}}\n").experiments) == 6


def test_a_round_can_extend_one_that_extends_another(load: Load) -> None:
    middle = "round: middle\nextends: base\ndefaults: {epochs: 10, data: x}\ngroups: [teacher, plain]\n"
    loaded = load("round: small\nextends: middle\nexperiments: {teacher: {config: {epochs: 2}}}\n", middle=middle)
    assert {path: one.config["epochs"] for path, one in by_path(loaded).items()} == {
        "x/large/0": 2, "x/large/1": 2, "x/small/0": 10, "x/small/1": 10,
    }  # fmt: skip
    assert [file.name for file in loaded.files] == ["small.yaml", "middle.yaml", "base.yaml"]
    wrong = middle.replace("[teacher, plain]", "[teacher, plane]")
    assert mistakes(load, "round: small\nextends: middle\n", middle=wrong) == [
        "middle.yaml:4: round base has no group 'plane': did you mean 'plain'?"
    ]


def test_a_cycle_and_an_unknown_round_are_errors_with_file_and_line(load: Load) -> None:
    files = {"one": "round: one\nextends: two\n", "two": "round: two\n\nextends: one\n"}
    assert mistakes(load, "round: small\nextends: one\n", **files) == [
        "two.yaml:3: rounds extend each other in a cycle: one extends two extends one"
    ]
    assert mistakes(load, "round: small\nextends: small\n") == [
        "small.yaml:2: rounds extend each other in a cycle: small extends small"
    ]
    (message,) = mistakes(load, "round: small\nextends: bse\n")
    assert message.startswith("small.yaml:2: no round 'bse' in ")
    assert "did you mean 'base'?" in message
    assert mistakes(load, "round: small\ngroups: [a]\nstudy: s\nexperiments: {a: {path: a}}\n") == [
        "small.yaml:2: groups can only be written with `extends`: it selects groups of that round"
    ]
    assert mistakes(load, "", base=BASE.replace("round: base", "round: bass")) == [
        "base.yaml:1: the name of the round is 'bass', but the file is base.yaml"
    ]
    assert mistakes(load, "", name="small", base="round: base\n") == [
        "base.yaml:1: the file needs the key 'experiments'"
    ]


# ---------------------------------------------------------------------------------------------- rounds that run


@pytest.mark.parametrize("name", ["charlie_smoke", "control_smoke"])
def test_the_shipped_smoke_rounds_are_what_they_were_before_they_extended_another(tmp_path: Path, name: str) -> None:
    _, folder = unpack(tmp_path)
    before, now = load_round(name, folder), load_round(name, REPOSITORY / "rounds")
    assert len(before.files) == 1
    assert len(now.files) == 2
    assert now.experiments == before.experiments
    assert (now.study, now.baselines) == (before.study, before.baselines)


def test_five_lines_run_a_small_part_of_a_round_under_their_own_name(rounds: Rounds) -> None:  # noqa: F811
    command = "echo {epochs} > {directory}/epochs"
    groups = {
        "g": {"path": "m_{model}/{seed}", "grid": {"model": ["v41", "v42"], "seed": [0, 1]}, "config": {"epochs": 9}}
    }
    groups["g"]["command"] = ["bash", "-c", command]
    rounds.write(groups, "whole")
    rounds.write(
        "round: r\nextends: whole\ndefaults: {epochs: 1}\ngroups: [g]\nexperiments: {g: {grid: {seed: [0]}}}\n"
    )
    planned = rounds.call("--dry-run", "--only", "*v42*")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "m_v42/0" in planned.stdout
    assert rounds.call("--only", "*v42*").returncode == 0
    assert rounds.states() == {"m_v41/0": "pending", "m_v42/0": "completed"}
    (printed,) = rounds.directory("m_v42/0").glob("attempts/1/files/epochs")
    assert printed.read_text() == "1\n"
    assert not (rounds.experiments / "whole").exists()


def test_an_archived_round_keeps_all_files_that_it_extends(rounds: Rounds) -> None:  # noqa: F811
    rounds.write({"g": {"path": "{x}", "grid": {"x": [1, 2]}, "command": "true", "baseline": "h"},
                  "h": {"path": "h", "command": "true"}}, "whole")  # fmt: skip
    rounds.write("round: middle\nextends: whole\n", "middle")
    rounds.write("round: r\nextends: middle\ndefaults: {x: 5}\n")
    assert rounds.call().returncode == 0
    done = rounds.call("--archive")
    assert done.returncode == 0
    folder = rounds.analysis / "experiment_r"
    assert (
        f"Its round file stays in {rounds.rounds}/r.yaml, a copy is next to the records, with those that it"
        in done.stdout
    )
    for name in ("r", "middle", "whole"):
        assert (folder / f"{name}.yaml").read_text() == (rounds.rounds / f"{name}.yaml").read_text()
    assert "- `whole.yaml`: a round that it extends" in (folder / "README.md").read_text()
    for file in rounds.rounds.iterdir():
        file.unlink()
    found = read_round("r", Folders(rounds.experiments, rounds.rounds, rounds.analysis))
    assert ({one.path for one in found.entries}, found.baselines) == ({"5", "h"}, {"g": "h"})
    assert not found.problems


def test_a_change_of_the_extended_file_blocks_what_has_run_like_a_change_of_the_own_file(
    rounds: Rounds,  # noqa: F811
) -> None:
    group = {"path": "g", "command": "true", "config": {"lr": 1}}
    rounds.write({"g": group}, "whole")
    rounds.write("round: r\nextends: whole\n")
    assert rounds.call().returncode == 0
    rounds.write({"g": {**group, "config": {"lr": 2}}}, "whole")
    assert rounds.call().returncode == 4
    assert "lr was 1, is now 2" in json.loads(rounds.call("--status", "--json").stdout)[0]["reason"]
