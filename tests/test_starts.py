"""`init` and `continue`: from which checkpoint each experiment starts, and the message for each mistake.

Three things are most likely to go wrong: the hash of an existing config changes; job and runner compute different
hashes; and an experiment starts from another checkpoint than the one that was pinned.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from roundhouse.config.round import load_round
from roundhouse.errors import RoundhouseError
from roundhouse.model.experiment import Experiment, StartFrom, changes, identity_in, start_in
from roundhouse.store import record

Load = Callable[[str], list[Experiment]]
BASE = """\
round: r
study: s
experiments:
  base: {path: "base/{lr}/{seed}", grid: {lr: [1, 2], seed: [0, 1]}, config: {epochs: 5}}
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """The experiments of a round with a group `base`, and others as written."""

    def read(text: str) -> list[Experiment]:
        (tmp_path / "r.yaml").write_text(BASE + textwrap.indent(textwrap.dedent(text), "  "))
        return load_round("r", tmp_path).experiments

    return read


def starts(experiments: list[Experiment]) -> dict[str, StartFrom]:
    return {one.path: one.start for one in experiments if one.start is not None}


def mistakes(load: Load, text: str) -> list[str]:
    with pytest.raises(RoundhouseError) as caught:
        load(text)
    return [line.partition("r.yaml:")[2] for line in str(caught.value).splitlines()]


# ---------------------------------------------------------------------------------------------- which checkpoint


def test_the_experiment_with_equal_values_is_found(load: Load) -> None:
    found = starts(load('b: {path: "b/{lr}/{seed}", grid: {lr: [2, 1], seed: [1]}, init: {from: base}}'))
    assert found == {"b/2/1": StartFrom("init", "base/2/1"), "b/1/1": StartFrom("init", "base/1/1")}


def test_only_keys_that_vary_in_the_source_are_compared(load: Load) -> None:
    group = "b: {path: b, config: {lr: 2, seed: 0, epochs: 9, width: 3}, continue: {from: base}}"
    assert starts(load(group)) == {"b": StartFrom("continue", "base/2/0")}


def test_conditions_name_constants_and_own_values(load: Load) -> None:
    found = starts(
        load("""\
        b:
          path: "b/{of}/{seed}"
          grid: {of: [0, 1], seed: [7]}
          init: {from: base, snapshot: "step_{seed}", match: {lr: 2, seed: "{of}"}}
        """)
    )
    assert found == {
        "b/0/7": StartFrom("init", "base/2/0", "step_7"),
        "b/1/7": StartFrom("init", "base/2/1", "step_7"),
    }


def test_the_source_can_be_the_path_of_an_experiment_with_placeholders(load: Load) -> None:
    group = 'b: {path: "b/{at}", grid: {at: [5, 6]}, config: {lr: 2}, init: {from: "base/{lr}/0", snapshot: "{at}"}}'
    assert starts(load(group)) == {
        "b/5": StartFrom("init", "base/2/0", "5"),
        "b/6": StartFrom("init", "base/2/0", "6"),
    }


@pytest.mark.parametrize("path", ["weights/w_{model}.pth", "/data/w_{model}.pth"])
def test_the_source_can_be_a_file_of_the_user(load: Load, path: str) -> None:
    found = load(f'b: {{path: b, config: {{model: m}}, init: {{from: "{path}"}}}}')
    assert starts(found) == {"b": StartFrom("init", path.format(model="m"), is_file=True)}
    assert found[-1].dependencies == ()


def test_the_source_is_a_dependency_but_not_an_input_of_the_study(load: Load) -> None:
    found = load("b: {path: b, config: {lr: 1, seed: 0}, after: {base: {lr: 2, seed: 0}}, init: {from: base}}")[-1]
    assert found.after == {"base": ("base/2/0",)}
    assert found.dependencies == ("base/2/0", "base/1/0")


def test_a_chain_within_a_group_has_a_beginning(load: Load) -> None:
    found = starts(
        load("""\
        chain:
          path: "c/{size}"
          zip: {size: [1, 2, 3], previous: [null, 1, 2]}
          init: {from: chain, match: {size: "{previous}"}}
        """)
    )
    assert found == {"c/2": StartFrom("init", "c/1"), "c/3": StartFrom("init", "c/2")}


# ---------------------------------------------------------------------------------------------- identity


def test_it_is_part_of_the_config_exactly_if_it_is_there(load: Load) -> None:
    group = "b: {{path: b, config: {{lr: 1, seed: 0}}{}}}"
    texts = ["", ", init: {from: base}", ", init: {from: base, snapshot: x}", ", continue: {from: base}"]
    texts += [", init: {from: base/1/0}", ", init: {from: x.pth}"]
    plain, init, snapshot, more, path, file = (load(group.format(text))[-1] for text in texts)
    assert "init" not in plain.identity()
    assert plain.identity().keys() == {"study", "command", "config", "after"}
    assert len({one.config_hash() for one in (plain, init, snapshot, more, file)}) == 5
    assert path.config_hash() == init.config_hash(), "how the source is written does not matter"


def test_the_hash_of_a_config_without_it_is_that_of_earlier_versions() -> None:
    plain = Experiment("r", "b", "b", "s", {"lr": 0.1}, after={"base": ("a",)})
    assert plain.config_hash() == "d0d204b242e1e21913fa7b7e3a2638aed70617606bce91be91b5ebdb308077cb"


@pytest.mark.parametrize(
    "start",
    [
        StartFrom("init", "a/b"),
        StartFrom("init", "a", "tag"),
        StartFrom("continue", "a"),
        StartFrom("init", "/x/w.pth", is_file=True),
    ],
)
def test_the_job_reads_it_from_config_yaml_with_the_same_hash(tmp_path: Path, start: StartFrom) -> None:
    experiment = Experiment("r", "b", "b", "s", {"lr": 0.1}, start=start)
    record.write_config(tmp_path, experiment)
    config = record.read_config(tmp_path)
    assert record.config_hash(config) == experiment.config_hash()
    assert start_in(config) == start
    assert identity_in(config) == experiment.identity()


@pytest.mark.parametrize("written", ["init: 5", "init: {}", "continue: [a]", "init: {from: 5}"])
def test_a_config_yaml_with_another_form_is_reported(tmp_path: Path, written: str) -> None:
    record.write_config(tmp_path, Experiment("r", "b", "b", "s", {}))
    with (tmp_path / record.CONFIG).open("a") as file:
        file.write(written + "\n")
    with pytest.raises(RoundhouseError, match="cannot be parsed"):
        record.read_config(tmp_path)


def test_changes_name_the_new_source() -> None:
    before, after = (Experiment("r", "b", "b", "s", {}, start=StartFrom("init", path, "t")) for path in ("a", "c"))
    assert changes(before.identity(), after.identity()) == "init.from was 'a', is now 'c'"
    plain = Experiment("r", "b", "b", "s", {})
    assert changes(plain.identity(), after.identity()) == "init.from is new: 'c', init.snapshot is new: 't'"


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("init: {from: base}", 8, "group 'base' match `init` for b (compared: no keys): they are base/1/0, base/1/1,"),
        ("config: {lr: 3, seed: 0}\n  init: {from: base}", 9, "no experiment of group 'base' matches `init` for b"),
        ("init: {from: base, match: {lr: 1}}", 8, "2 experiments of group 'base' match `init` for b (compared: lr)"),
        ("init: {from: base, match: {sed: 1}}", 8, "group 'base' has no config key 'sed': did you mean 'seed'?"),
        ("init: {from: base, match: {lr: '{x}'}}", 8, "init of group 'b': unknown name 'x'"),
        ("init: {from: basis}", 8, "'basis' is neither a group nor the path of an experiment in this round, nor a .p"),
        ("init: {from: base/1/9}", 8, "did you mean 'base/1/1'?"),
        ("init: {from: '{model}.pth'}", 8, "init.from of group 'b': unknown name 'model'"),
        ("init: {from: x.pth, snapshot: a}", 8, "init.snapshot needs an experiment, and 'x.pth' is a file: leave it"),
        ("init: {from: x.pth, match: {lr: 1}}", 8, "init.match needs the name of a group in init.from"),
        (
            "select: {from: base, metric: m, mode: min}\n  init: {from: base, match: {lr: 1}}",
            9,
            "init.match of group 'b' has no effect, because the selected run of 'base' is taken: leave it out",
        ),
        ("init: {from: base/1/0, snapshot: a/b}", 8, "'a/b' is not the tag of a snapshot"),
        ("init: {from: base/1/0, snapshot: '{q}'}", 8, "init.snapshot of group 'b': unknown name 'q'"),
        ("init: {snapshot: a}", 8, "experiments.b.init needs the key 'from'"),
        ("continue: {from: x.pth}", 8, "neither a group nor the path of an experiment in this round: "),
        ("continue: {from: base/1/0, snapshot: a}", 8, "unknown key 'experiments.b.continue.snapshot'"),
        ("study: t\n  continue: {from: base/1/0}", 9, "group 'base' trains the study s, not t"),
        ("init: {from: command}", 8, "group 'command' runs a command, and only a study writes checkpoints"),
        ("command: 'true'\n  init: {from: base/1/0}", 9, "group 'b' has init, and a command: only a study can start"),
        ("init: {from: base/1/0}\n  continue: {from: base/1/0}", 8, "has both init and continue: it needs one of them"),
        ("init: {from: b}", 8, "experiments of group 'b' depend on each other in a cycle: b depends on b"),
        ("init: {from: later}", 4, "groups depend on each other in a cycle: later depends on b depends on later"),
        ("after: [init]\n  init: {from: base/1/0}", 9, "group 'b' has init, and depends on a group of this name"),
        ("init: {from: b}\n  halving: {metric: m, mode: min, every: 1}", 9, "depends on itself, so its runs cannot"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_file_and_line(load: Load, text: str, line: int, expected: str) -> None:
    others = "command: {path: command, command: 'true'}\nlater: {path: later, after: [b]}\ninit: {path: i}\n"
    found = mistakes(load, f"{others}b:\n  path: b\n  {text}\n")
    assert any(one.startswith(f"{line + 2}: ") and expected in one for one in found), found


def test_a_group_may_have_the_name_of_a_key_that_it_does_not_use(load: Load) -> None:
    found = load("init: {path: i}\nb: {path: b, after: [init], continue: {from: base/1/0}}")
    assert found[-1].dependencies == ("i", "base/1/0")


# ---------------------------------------------------------------------------------------------- files of inputs


def test_the_files_of_inputs_are_listed_by_group_or_for_all_and_are_not_part_of_the_config(load: Load) -> None:
    group = "b: {{path: b, after: [base, c]{}}}\nc: {{path: c}}"
    plain = load(group.format(""))[-2]
    by_group = load(group.format(", inputs_from: {c: [samples.npz, kept/x.txt]}"))[-2]
    of_all = load(group.format(", inputs_from: [samples.npz]"))[-2]
    assert plain.input_files == {}
    assert by_group.input_files == {"c": ("samples.npz", "kept/x.txt")}
    assert of_all.input_files == {"base": ("samples.npz",), "c": ("samples.npz",)}
    assert plain.config_hash() == by_group.config_hash() == of_all.config_hash()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inputs_from: [x]", "group 'b' has inputs_from, but no `after`: it has no inputs"),
        ("after: [base], inputs_from: {bse: [x]}", "inputs_from: 'bse' is not in `after`: did you mean 'base'?"),
        ("after: [base], inputs_from: {base: [../x]}", "'../x' is not the name of a file in the directory of an atte"),
        ("after: [base], inputs_from: [/x]", "'/x' is not the name of a file"),
        ("after: [base], inputs_from: x", "experiments.b.inputs_from should be a mapping, not 'x'"),
    ],
)
def test_a_mistake_in_the_files_of_inputs_is_reported(load: Load, text: str, expected: str) -> None:
    (found,) = mistakes(load, f"b: {{path: b, {text}}}")
    assert found.startswith("5: ")
    assert expected in found


def test_a_group_of_selected_settings_names_the_files_of_what_it_selects(load: Load) -> None:
    select = "select: {from: base, metric: loss, mode: min}"
    assert load(f"b: {{path: b, {select}, inputs_from: [x.npz]}}")[-1].input_files == {"base": ("x.npz",)}


def test_the_schema_knows_both_forms() -> None:
    from roundhouse.config.round import json_schema

    listed, mapping = json_schema()["$defs"]["Group"]["properties"]["inputs_from"]["anyOf"]
    assert (listed["type"], mapping["type"]) == ("array", "object")
    assert {"init", "continue"} <= json_schema()["$defs"]["Group"]["properties"].keys()
    assert yaml.safe_load(BASE)
