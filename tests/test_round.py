"""Round files: what they expand to, and the message for each mistake."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from roundhouse.config.paths import path_fault
from roundhouse.config.round import Round, json_schema, load_round
from roundhouse.config.round_schema import ConditionalResources, ExtendingFile, Group, ResourceRequests, RoundFile
from roundhouse.config.yaml_file import DEEPEST, read_yaml
from roundhouse.errors import RoundhouseError
from roundhouse.model.experiment import Carry, Resources
from roundhouse.schema import keys_of
from roundhouse.units import memory_mebibytes, walltime_seconds

ROOT = Path(__file__).parents[1]


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Round]:
    """Write a round file and load it; a group alone is put into a round."""

    def load(text: str) -> Round:
        (tmp_path / "example.yaml").write_text(whole_round(textwrap.dedent(text)), encoding="utf-8")
        return load_round("example", tmp_path)

    return load


def whole_round(text: str) -> str:
    if re.search(r"^(experiments|extends):", text, re.MULTILINE):
        return text
    return "round: example\nstudy: s\nexperiments:\n  example:\n" + textwrap.indent(text, "    ")


def paths(loaded: Round) -> list[str]:
    return [experiment.path for experiment in loaded.experiments]


def test_quickstart_is_a_teacher_a_student_and_a_distilled_student_with_two_seeds_each() -> None:
    quickstart = load_round("quickstart", ROOT / "rounds")
    assert [(one.group, one.config["seed"]) for one in quickstart.experiments] == [
        (group, seed) for group in ("teacher", "student", "distilled") for seed in (0, 1)
    ]
    distilled = quickstart.experiments[-1]
    assert distilled.path == "digits/logit/alpha_0.5/ResNet20_to_ResNet8/1"
    assert distilled.after == {"teacher": ("digits/pure/ResNet20/1",)}
    assert distilled.resources == Resources(ncpus=1, mem_mb=2048, walltime_s=1200)
    assert distilled.study == "distillation"


# No two values are equal but for their type: 2 and 2.0 are one value to exclude, true and 1 are two.
KEYS = st.sampled_from("abcdef")
VALUES = st.one_of(
    st.integers(-5, 5), st.booleans(), st.sampled_from(["x", "y", "z"]), st.sampled_from([0.5, 1e-05, 2.25])
)
GRIDS = st.dictionaries(KEYS, st.lists(VALUES, min_size=1, max_size=4, unique_by=repr), min_size=1, max_size=4)


@settings(deadline=None)
@given(grid=GRIDS, defaults=st.dictionaries(KEYS, VALUES), config=st.dictionaries(KEYS, VALUES), data=st.data())
def test_a_grid_becomes_its_product_less_what_is_excluded(
    grid: dict[str, list[Any]], defaults: dict[str, Any], config: dict[str, Any], data: st.DataObject
) -> None:
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    excluded = data.draw(st.lists(st.sampled_from(combinations), max_size=len(combinations) - 1, unique_by=repr))
    kept = [one for one in combinations if repr(one) not in map(repr, excluded)]
    group = {"path": "/".join(f"{key}_{{{key}}}" for key in grid), "grid": grid, "config": config}
    if excluded:
        group["exclude"] = excluded
    content = {"round": "example", "study": "s", "defaults": defaults, "experiments": {"only": group}}
    with TemporaryDirectory() as folder:
        (Path(folder) / "example.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        experiments = load_round("example", Path(folder)).experiments
        again = load_round("example", Path(folder)).experiments

    assert [repr(sorted(one.config.items())) for one in experiments] == [
        repr(sorted({**defaults, **config, **values}.items())) for values in kept
    ]
    assert len({one.path for one in experiments}) == len(experiments)
    assert experiments == again


def test_zip_goes_in_step_and_is_combined_with_the_grid(load: Callable[[str], Round]) -> None:
    loaded = load("""\
        path: "{d}/{o}_{lr}"
        grid: {d: [x, y]}
        zip: {o: [sgd, adam], lr: [0.1, 1e-3]}
    """)
    assert paths(loaded) == ["x/sgd_0.1", "x/adam_0.001", "y/sgd_0.1", "y/adam_0.001"]


def test_include_adds_whole_combinations_after_exclude(load: Callable[[str], Round]) -> None:
    loaded = load("""\
        path: "{a}/{b}"
        grid: {a: [1, 2], b: [1, 2]}
        exclude: [{a: 1}]
        include: [{a: 1, b: 1}, {a: 7, b: 8, only_here: true}]
    """)
    assert paths(loaded) == ["2/1", "2/2", "1/1", "7/8"]
    assert loaded.experiments[-1].config == {"a": 7, "b": 8, "only_here": True}


def test_a_group_without_grid_is_one_experiment_and_with_include_alone_only_those(load: Callable[[str], Round]) -> None:
    assert paths(load("path: alone\n")) == ["alone"]
    assert paths(load("path: '{x}'\ninclude: [{x: 1}, {x: 2}]\n")) == ["1", "2"]


def test_values_are_written_into_paths_plainly(load: Callable[[str], Round]) -> None:
    loaded = load("""\
        path: "{sure}_{none}_{tiny}_{half}_{{b}}_{text}"
        config: {sure: on, none: null, tiny: 1e-5, half: .5, text: "007"}
    """)
    assert paths(loaded) == ["true_null_1e-05_0.5_{b}_007"]


def test_numbers_are_read_as_numbers_and_clock_times_as_text(load: Callable[[str], Round]) -> None:
    config = (
        load("path: p\nconfig: {a: 1e-3, b: 5E4, c: -0x10, d: 0o17, e: 1:30, f: +3, g: 1.}\n").experiments[0].config
    )
    assert config == {"a": 0.001, "b": 50000.0, "c": -16, "d": 15, "e": "1:30", "f": 3, "g": 1.0}
    assert [type(config[key]) for key in "abcd"] == [float, float, int, int]


def test_anchors_and_merges_work(load: Callable[[str], Round]) -> None:
    loaded = load("""\
        round: example
        study: s
        experiments:
          a: {path: a, config: &shared {lr: 1, decay: 2}}
          b: {path: b, config: &more {<<: *shared, lr: 3}}
          c: {path: c, config: {<<: [*more, *shared], x: 1}}
    """)
    assert loaded.experiments[1].config == {"lr": 3, "decay": 2}
    assert loaded.experiments[2].config == {"lr": 3, "decay": 2, "x": 1}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("2:00:00", 7200), ("1:30", 90), ("90:00", 5400), ("1-00:00:00", 86400), (3600, 3600), ("0:20:00", 1200)],
)
def test_walltimes(written: str | int, seconds: int) -> None:
    assert walltime_seconds(written) == seconds


@pytest.mark.parametrize(
    "written", ["2 hours", "0:00", "3600", "1:75", "-1:00", "", 0, -5, True, 1.5, None, "1-2:00", "१:००"]
)
def test_values_that_are_not_a_walltime(written: object) -> None:
    with pytest.raises(ValueError, match="walltime"):
        walltime_seconds(written)


@pytest.mark.parametrize(
    ("written", "mebibytes"),
    [("16gb", 16384), ("512mb", 512), ("2G", 2048), ("1.5 TiB", 1572864), ("1kb", 1), ("2049k", 3)],
)
def test_memory(written: str, mebibytes: int) -> None:
    assert memory_mebibytes(written) == mebibytes


@pytest.mark.parametrize("written", [16, "16", "0gb", "gb", "-1gb", "1 pb", "", True, None, "9" * 400 + "gb"])
def test_values_that_are_not_an_amount_of_memory(written: object) -> None:
    with pytest.raises(ValueError, match="memory"):
        memory_mebibytes(written)


def test_a_walltime_has_the_same_meaning_with_and_without_quotes(load: Callable[[str], Round]) -> None:
    for written in ("2:00:00", '"2:00:00"', "7200"):
        loaded = load(f"path: p\nresources: {{walltime: {written}}}\n")
        assert loaded.experiments[0].resources.walltime_s == 7200


def test_resources_of_the_group_win_and_conditions_win_over_plain_values(load: Callable[[str], Round]) -> None:
    loaded = load("""\
        round: example
        study: s
        resources:
          ncpus: 1
          ngpus: 1
          mem: 1gb
          queue: q
          when:
            - {if: "x == 1", ncpus: 2, ngpus: 2, mem: 2gb}
            - {if: "x > 1", ncpus: 9}
        experiments:
          g:
            path: "{x}"
            grid: {x: [0, 1, 2]}
            resources:
              ngpus: 3
              mem: null
              when: [{if: "x == 2", ngpus: 4, walltime: 60}]
    """)
    assert [one.resources for one in loaded.experiments] == [
        Resources(ncpus=1, ngpus=3, queue="q"),
        Resources(ncpus=2, ngpus=3, queue="q"),
        Resources(ncpus=9, ngpus=4, queue="q", walltime_s=60),
    ]


def test_priority_is_a_number_or_an_expression_and_the_groups_own_wins(load: Callable[[str], Round]) -> None:
    loaded = load("""\
        round: example
        study: s
        priority: "x * 10 if flag else 0"
        defaults: {flag: true}
        experiments:
          a: {path: "a/{x}", grid: {x: [1, 2]}}
          b: {path: "b/{x}", grid: {x: [1]}, config: {flag: false}}
          c: {path: c, priority: -2.5}
    """)
    assert [one.priority for one in loaded.experiments] == [10, 20, 0, -2.5]


def test_in_an_expression_1_differs_from_true_and_from_text(load: Callable[[str], Round]) -> None:
    loaded = load("""\
        path: "{n}"
        zip: {n: [0, 1, 2], x: [1, true, "1"]}
        priority: "5 if x is boolean else 3 if x is number else 1"
    """)
    assert [one.priority for one in loaded.experiments] == [3, 5, 1]


def test_an_expression_can_test_for_a_key_that_only_some_groups_have(load: Callable[[str], Round]) -> None:
    loaded = load("""\
        round: example
        study: s
        priority: "1 if x is defined and x == 3 else 0"
        experiments: {a: {path: a, config: {x: 3}}, b: {path: b}}
    """)
    assert [one.priority for one in loaded.experiments] == [1, 0]


def test_a_command_is_filled_in_but_for_its_directory(load: Callable[[str], Round]) -> None:
    loaded = load("""\
        round: example
        experiments:
          text: {path: "text/{lr}", grid: {lr: [0.1, 1e-5]}, config: {n: "a b", l: [1, 2], t: true},
                 command: "python x.py --lr={lr} '{n}' {l} {t} {{}} -o {directory}/out"}
          list: {path: list, command: [bash, -c, "echo 1 > {directory}/x"]}
    """)
    assert loaded.study is None
    assert [one.command for one in loaded.experiments] == [
        ("python", "x.py", "--lr=0.1", "a b", "[1, 2]", "true", "{}", "-o", "{directory}/out"),
        ("python", "x.py", "--lr=1e-05", "a b", "[1, 2]", "true", "{}", "-o", "{directory}/out"),
        ("bash", "-c", "echo 1 > {directory}/x"),
    ]
    assert all(one.study is None for one in loaded.experiments)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("false", Carry(files=())),
        ('["*.pt", logs]', Carry(files=("*.pt", "logs"))),
        ("{keep: 2}", Carry(keep=2)),
        ("{files: [a], keep: 3}", Carry(files=("a",), keep=3)),
        ("null", Carry()),
    ],
)
def test_carry_is_read_and_is_no_part_of_the_config(
    load: Callable[[str], Round], written: str, expected: Carry
) -> None:
    text = "round: example\nexperiments: {a: {path: a, command: x}}\n"
    (plain,) = load(text).experiments
    (one,) = load(text.replace("command: x", f"command: x, carry: {written}")).experiments
    assert (one.carry, plain.carry) == (expected, Carry())
    assert one.config_hash() == plain.config_hash()


TEACHERS = """\
    round: example
    study: s
    experiments:
      teacher:
        path: "t/{data}/{seed}/{part}"
        grid: {data: [x, y], seed: [0, 1], part: [p, q]}
      student:
        path: "s/{data}/{seed}"
        grid: {data: [x, y], seed: [0, 1]}
        config: {teacher: ResNet, wrong: nothing}
"""


def test_an_experiment_depends_on_all_that_match_and_values_are_compared_with_their_types(
    load: Callable[[str], Round],
) -> None:
    loaded = load(TEACHERS + '        after: {teacher: {data: "{data}", seed: "{seed}"}}\n')
    after = {one.path: one.after for one in loaded.experiments}
    assert after["s/y/1"] == {"teacher": ("t/y/1/p", "t/y/1/q")}
    assert after["t/y/1/p"] == {}


def test_dependencies_are_named_by_constants_and_by_texts_with_placeholders(load: Callable[[str], Round]) -> None:
    group = (
        '      last: {path: last, config: {l: x}, after: {student: {seed: 1, data: "{l}"}, teacher: {part: "{l}"}}}\n'
    )
    loaded = load(TEACHERS.replace("[p, q]", "[x, px]") + group.replace('"{l}"}}}', '"p{l}"}}}'))
    assert loaded.experiments[-1].after == {
        "student": ("s/x/1",),
        "teacher": ("t/x/0/px", "t/x/1/px", "t/y/0/px", "t/y/1/px"),
    }


def test_a_dependency_on_true_does_not_match_1(load: Callable[[str], Round]) -> None:
    loaded = load("""\
        round: example
        study: s
        experiments:
          first: {path: "first/{x}", grid: {x: [1, true]}}
          then: {path: then, after: {first: {x: true}}}
    """)
    assert loaded.experiments[-1].after == {"first": ("first/true",)}


@pytest.mark.parametrize("after", ["[teacher]", "{teacher: {}}"])
def test_an_experiment_can_depend_on_a_whole_group(load: Callable[[str], Round], after: str) -> None:
    loaded = load(TEACHERS + f"        after: {after}\n")
    assert loaded.experiments[-1].after == {"teacher": tuple(paths(loaded)[:8])}


def test_a_group_can_depend_on_itself_as_a_chain_with_a_beginning(load: Callable[[str], Round]) -> None:
    loaded = load("""\
        path: "{stage}/{seed}"
        grid: {seed: [0, 1]}
        zip: {stage: [1, 2, 3], previous: [null, 1, 2]}
        after: {example: {stage: "{previous}", seed: "{seed}"}}
    """)
    assert {one.path: one.after.get("example") for one in loaded.experiments if one.config["seed"] == 1} == {
        "1/1": None,
        "2/1": ("1/1",),
        "3/1": ("2/1",),
    }


def test_configs_are_json_and_hashable(load: Callable[[str], Round]) -> None:
    for experiment in load(TEACHERS).experiments:
        assert json.loads(json.dumps(experiment.config)) == experiment.config
        assert len(experiment.config_hash()) == 64


# Files in which `#! TEXT` marks each line with a mistake: parts of its message, separated by `|`.
MISTAKES = {
    "unknown keys and missing ones": """\
        studdy: s                          #! unknown key 'studdy': did you mean 'study'?|the file needs the key 'round'
        study: s
        resources: {memm: 1gb}             #! did you mean 'mem'?
        experiments:
          a:                               #! experiments.a needs the key 'path'
            grud: {}                       #! unknown key 'experiments.a.grud': did you mean 'grid'?
            resources:
              when:
                - ncpus: 2                 #! needs the key 'if'
                  walltim: 3               #! did you mean 'walltime'?
          path:
            path: p
            resource: {}                   #! did you mean 'resources'?
    """,
    "values that do not fit": """\
        round: example
        study: no-study                    #! not a study
        resources:
          ncpus: 0                         #! greater than or equal to 1, not 0
          ngpus: -1                        #! greater than or equal to 0
          mpiprocs: "8"                    #! a whole number, not '8'
          mem: 16                          #! 16gb or 512mb
          walltime: 2 hours                #! "H:MM:SS"
          queue: a b                       #! one word
        priority: [1]                      #! neither a number nor an expression
        experiments:
          a b: {path: p}                   #! letters, digits, - and _ only
          b:
            path: 5                        #! should be text, not 5
            grid: {seed: 0}                #! a list, not 0
            config:
              bad-key: 1                   #! letters, digits and _
              directory: x                 #! choose another key
            after: {a: 5}                  #! a mapping, not 5
            command: "a | b"               #! needs a shell
            priority: true                 #! neither
          c: {path: c, command: "a 'b"}    #! cannot be split into words
          d: {path: d, command: []}        #! is empty
          e: {path: e, command: [x, 5]}    #! should be text
          f: {path: f, command: 3}         #! should be text or a list, not 3
    """,
    "values with two meanings in YAML": """\
        round: example
        study: s
        defaults:
          a: 2020-01-01                    #! a date in YAML: quote it
          b: 007                           #! two possible meanings
          c: 1_000                         #! two possible meanings
          d: .nan                          #! not a finite number
          e: -.inf                         #! not a finite number
          f: 1e999                         #! not a finite number
          5: x                             #! the key 5 must be text: quote it
          on: x                            #! the key on must be text
          g: 1
          g: 2                             #! the key 'g' appears twice (first on line 12)
          h: !!binary aGk=                 #! !!binary
          i: !!python/name:os.system x     #! python/name
          j: !!set {x}                     #! !!set
        experiments: {a: {path: a}}
    """,
    "another name than the file's": """\
        round: sample                      #! the name of the round is 'sample', but the file is example.yaml
        study: s
        experiments: {}                    #! at least one group
    """,
    "grids": """\
        round: example
        study: s
        experiments:
          a:
            path: "a/{x}"
            grid:
              x: []                        #! grid of group 'a' has no values for 'x'
          b:
            path: b
            grid: {}                       #! grid of group 'b' is empty
          c:
            path: "c/{x}"
            grid: {x: [1, 2]}
            zip:
              x: [1, 2]                    #! both in grid and in zip
          d:
            path: "d/{x}{y}"
            zip: {x: [1], y: [1, 2]}       #! not equally long: x has 1, y has 2
          e:
            path: "e/{x}{y}"
            grid: {x: [1, 2], yy: [true]}
            config: {y: 1}
            exclude:
              - {x: 3}                     #! matches no combination
              - {x: "1"}                   #! matches no combination
              - {y: 1}                     #! names 'y', which is not in grid or zip of group 'e': did you mean 'yy'?
              - {}                         #! names no values
              - {yy: 1}                    #! matches no combination
          f:
            path: "f/{x}"
            grid: {x: [1, 2]}
            exclude: [{x: 1}, {x: 2}]      #! drops every combination
    """,
    "templates": """\
        round: example
        defaults: {model: m, many: [1], lr: 1}
        experiments:
          a: {study: s, path: "a/{modle}"}        #! unknown name 'modle': did you mean 'model'?
          b: {study: s, path: "b/{model"}         #! lone {: write {{
          c: {study: s, path: "c/}"}              #! lone }: write }}
          d: {study: s, path: "d/{model.x}"}      #! {model.x}: only the name of a config key
          e: {study: s, path: "e/{model!r}"}      #! only the name of a config key
          f: {study: s, path: "f/{lr:.2f}"}       #! only the name of a config key
          g: {study: s, path: "g/{}"}             #! only the name of a config key
          h: {study: s, path: "h/{many}"}         #! 'many' is a list
          i: {path: i, command: "x {mdel}"}       #! command of group 'i': unknown name 'mdel': did you mean 'model'?
          j: {path: j, command: "x { model }"}    #! lone {
          k:
            path: "k/{x}"
            study: s
            include:
              - {x: 1}
              - {z: 1}                            #! unknown name 'x'
    """,
    "carry": """\
        round: example
        study: s
        experiments:
          b: {path: b, command: x, carry: true}                 #! should be false, a list of globs, or a mapping
          c: {path: c, command: x, carry: "*.pt"}               #! false, a list of globs, or a mapping with `files`
          d: {path: d, command: x, carry: {keep: 0}}            #! greater than or equal to 1, not 0
          e: {path: e, command: x, carry: [1]}                  #! text, not 1
          f: {path: f, command: x, carry: {keeps: 2}}           #! did you mean 'keep'?
    """,
    "carry of a study": """\
        round: example
        study: s
        experiments:
          a: {path: a, carry: false}                            #! group 'a' has carry, but no command
    """,
    "paths that are not safe": """\
        round: example
        study: s
        experiments:
          a: {path: /etc}                         #! path of group 'a': '/etc' is absolute
          b: {path: "b/../../x"}                  #! '..', which could lead out of the round's
          c: {path: "c//x"}                       #! empty component
          d: {path: "d/"}                         #! empty component
          e: {path: "./e"}                        #! '.'
          f: {path: "f/-rf"}                      #! begins with '-'
          g: {path: "g/.hidden"}                  #! begins with '.'
          h: {path: "h\\\\x"}                       #! backslash
          i: {path: "i\\nx"}                       #! control character
          j: {path: "j\\0x"}                       #! control character
          k: {path: "k/attempts/x"}               #! 'attempts', which is a file name of the record
          l: {path: "l "}                         #! begins or ends with a space
          m: {path: ""}                           #! empty component
          n:
            path: "n/{x}/{seed}"                  #! '..'|(x=.., seed=0) (and 1 more)
            grid: {x: [fine, ..], seed: [0, 1]}
    """,
    "paths that meet": """\
        round: example
        study: s
        experiments:
          a:
            path: "x/{s}"                         #! (s=1, lr=0.2) is also that of (s=1, lr=0.1): they differ in lr
            grid: {s: [1, 2], lr: [0.1, 0.2]}
          b:
            path: "x/{t}"                         #! 'x/2' of group 'b' (t=2) is also that of group 'a' (s=2, lr=0.1)
            grid: {t: [2, 3]}
          c:
            path: "x/1/{u}"                       #! 'x/1/7' of group 'c' lies inside 'x/1' of group 'a'
            grid: {u: [7]}
          d:
            path: "y/{u}"                         #! (u=7) is also that of (u=7): their configs are equal
            grid: {u: [7, 7]}
          e:
            path: "{u}"                           #! 'e/2' of group 'e' lies inside 'e' of group 'e'
            grid: {u: [e, e/2, "3"]}
            include:
              - {u: z}
              - {u: z/1/2}
              - {u: 3}                            #! '3' of group 'e' (u=3) is also that of (u=3): they differ in u
    """,
    "dependencies": """\
        round: example
        study: s
        experiments:
          a:
            path: "a/{x}"
            grid: {x: [0, 1]}
          b:
            path: "b/{x}"
            grid: {x: [0, 1, 2, 3]}
            after:
              aa: {}                              #! unknown group 'aa': did you mean 'a'?
              a: {x: "{x}"}                       #! no experiment of group 'a' matches `after` for b/2 (nor for 1 more)
          c:
            path: c
            config: {text: "1"}
            after:
              a:
                y: 1                              #! group 'a' has no config key 'y': choose from x
              b:
                x: "{"                            #! lone {
          d:
            path: d
            config: {text: "1"}
            after:
              a: {x: "{text}"}                    #! no experiment of group 'a' matches `after` for d
              b: {x: "{txt}"}                     #! unknown name 'txt': did you mean 'text'?
              c: {text: true}                     #! no experiment
    """,
    "cyclic dependencies": """\
        round: example
        study: s
        experiments:
          a:
            path: "a/{x}"
            grid: {x: [0, 1]}
            after:
              b: {}                               #! in a cycle: a depends on b depends on a
          b:
            path: "b"
            after: [a]
          c:
            path: "c/{x}"
            grid: {x: [0, 1]}
            after:
              c: {x: "{x}"}                       #! in a cycle: c/0 depends on c/0
          d:
            path: "d/{x}"
            zip: {x: [0, 1, 2], y: [1, 0, 1]}
            after:
              d: {x: "{y}"}                       #! experiments of group 'd' depend on each other in a cycle
          e:
            path: "e/{x}"
            grid: {x: [0, 1]}
            after:
              e: {x: 5}                           #! no experiment of group 'e' matches `after` for e/0
    """,
    "study and command": """\
        round: example
        experiments:
          a: {path: a}                            #! neither study nor command
          b:
            path: b
            command: x
            study: s                              #! both a study and a command
    """,
    "expressions": """\
        round: example
        study: s
        defaults: {dataset: x, n: 0}
        resources:
          when:
            - {if: "datset == 'x'", ncpus: 2}     #! did you mean 'dataset'?
            - {if: "dataset =", ncpus: 2}         #! is not an expression
            - {if: "n.real.x.y", ncpus: 2}        #! 'n.real.x.y':
            - {if: "range(3)", ncpus: 2}          #! 'range(3)':
            - {if: "dataset < n", ncpus: 2}       #! 'dataset < n':
            - {if: "n.__class__.mro()", ncpus: 2} #! 'n.__class__.mro()':
            - {if: "n | nofilter", ncpus: 2}      #! is not an expression:
        priority: "dataset"                       #! must give a number, not 'x'
        experiments:
          a: {path: a}
          b: {path: b, priority: "1 / n"}         #! '1 / n':
          c: {path: c, priority: "n == 0"}        #! must give a number, not True
    """,
    "a path without quotes": """\
        round: example
        experiments:
          a:
            path: {dataset}/x                     #! text that begins with { needs quotes
    """,
    "tabs": "round: example\nexperiments:\n\ta: 1  #! indent with spaces\n",
    "two documents": "round: example\n--- #! found another document\nround: example\n",
    "no mapping": "- round #! must be a mapping\n",
    "an anchor inside itself": "round: &a [*a] #! contains itself\n",
    "a merge with itself": "round: &a {<<: *a} #! contains itself\n",
    "an alias of nothing": "round: *a #! undefined alias\n",
}


@pytest.mark.parametrize("text", MISTAKES.values(), ids=MISTAKES.keys())
def test_all_mistakes_are_reported_together_each_with_its_line(tmp_path: Path, text: str) -> None:
    text = textwrap.dedent(text)
    file = tmp_path / "example.yaml"
    file.write_text(re.sub(r" *#!.*", "", text))
    with pytest.raises(RoundhouseError) as raised:
        load_round("example", tmp_path)

    expected = {
        number: line.split("#! ")[1].split("|") for number, line in enumerate(text.splitlines(), 1) if "#! " in line
    }
    reported: dict[int, str] = {}
    for line in str(raised.value).splitlines():
        place, where, message = line.removeprefix(str(tmp_path)).split(":", 2)
        assert place == "/example.yaml"
        reported[int(where)] = reported.get(int(where), "") + message
    assert reported.keys() == expected.keys()
    for number, parts in expected.items():
        for part in parts:
            assert part in reported[number]


def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    for content, message in ((b"", "is empty"), (b"a: \xff", "not UTF-8"), (b"a: \x01", "not valid YAML")):
        (tmp_path / "x.yaml").write_bytes(content)
        with pytest.raises(RoundhouseError, match=message):
            load_round("x", tmp_path)


NESTED = pytest.mark.parametrize(("opened", "closed"), [("- ", ""), ("[", "]")], ids=["block", "flow"])


@NESTED
@pytest.mark.parametrize("depth", [DEEPEST, 150, 3_000, 100_000])
def test_nesting_beyond_the_limit_is_reported_with_its_line(
    tmp_path: Path, opened: str, closed: str, depth: int
) -> None:
    (tmp_path / "x.yaml").write_text(f"a: 1\nb:\n  {opened * depth}{closed * depth}")
    with pytest.raises(RoundhouseError, match=f"x.yaml:3: values are nested more than {DEEPEST} levels deep"):
        read_yaml(tmp_path / "x.yaml")


@NESTED
def test_nesting_up_to_the_limit_is_read(tmp_path: Path, opened: str, closed: str) -> None:
    depth = DEEPEST - 1  # the mapping is a level, too
    (tmp_path / "x.yaml").write_text(f"b:\n  {opened * depth}{closed * depth}")
    assert str(read_yaml(tmp_path / "x.yaml").data["b"]).count("[") == depth


@pytest.mark.parametrize("name", ["charly", "Charlie", "charlie.yaml", "../charlie", "rounds/charlie"])
def test_the_message_for_an_unknown_round_names_the_nearest_and_all_that_exist(tmp_path: Path, name: str) -> None:
    rounds = tmp_path / "rounds"
    rounds.mkdir()
    for existing in (rounds / "charlie.yaml", rounds / "delta.yaml", tmp_path / "charlie.yaml"):
        existing.write_text("round: charlie\nstudy: s\nexperiments: {a: {path: a}}\n")
    with pytest.raises(RoundhouseError, match="did you mean 'charlie'.* charlie, delta"):
        load_round(name, rounds)


def test_without_round_files_the_message_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RoundhouseError, match=f"no round file .* in {tmp_path}/none"):
        load_round("charlie", tmp_path / "none")


@settings(deadline=None)
@given(path=st.text(max_size=30) | st.from_regex(r"(?:[.\-a/ \\\x00-\x20]{1,3}/?){1,4}", fullmatch=True))
def test_a_legal_path_stays_below_its_folder(path: str) -> None:
    if path_fault(path) is None:
        inside = (Path("/experiments/round") / path).resolve()
        assert inside.relative_to("/experiments/round").as_posix() == path
        assert not {"\n", "\0", "\\"} & set(path)


def test_a_component_may_have_200_bytes_and_no_more() -> None:
    assert path_fault("é" * 100) is None
    assert "200 bytes" in str(path_fault("é" * 100 + "x"))


def test_importing_round_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'rich', 'jinja2', 'numpy', 'pydantic'}"
    code = f"import sys, roundhouse.config.round as _; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


def test_the_schema_knows_every_key_and_forbids_others() -> None:
    schema = json_schema()
    for model in (RoundFile, ExtendingFile):
        form = schema["$defs"][model.__name__]
        assert form["properties"].keys() == keys_of(model).keys()
        assert form["additionalProperties"] is False
    for name in ("Group", "GroupOverride"):
        assert schema["$defs"][name]["properties"].keys() == keys_of(Group).keys()
    assert "required" not in schema["$defs"]["GroupOverride"]
    assert "if" in schema["$defs"]["ConditionalResources"]["required"]
    assert json.loads(json.dumps(schema)) == schema


REFERENCE = (ROOT / "docs" / "round_file.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)# (\d+) experiments, first: (\S+)\n```", REFERENCE, re.DOTALL)


def test_every_example_of_the_reference_says_what_it_gives() -> None:
    assert len(EXAMPLES) == REFERENCE.count("```yaml")


@pytest.mark.parametrize(("text", "number", "first"), EXAMPLES)
def test_the_examples_of_the_reference_are_true(tmp_path: Path, text: str, number: str, first: str) -> None:
    text = whole_round(text)
    name = yaml.safe_load(text)["round"]
    shutil.copytree(ROOT / "rounds", tmp_path, dirs_exist_ok=True)  # an example may extend one of these
    (tmp_path / f"{name}.yaml").write_text(text)
    loaded = load_round(name, tmp_path)
    assert (len(loaded.experiments), loaded.experiments[0].path) == (int(number), first)


@pytest.mark.parametrize("model", [ExtendingFile, Group, ResourceRequests, ConditionalResources])
def test_the_reference_names_every_key(model: type[RoundFile | Group | ResourceRequests]) -> None:
    for name in keys_of(model):
        assert f"`{name}`" in REFERENCE


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ("{pack: 8}", "should be a mapping, not 8"),
        ("{max_running: 2}", "max_running needs array or pack"),
        ("{array: true, pack: {slots: 2}}", "array and pack cannot be combined"),
        ("{ngpus: 1, pack: {slots: 3, per_gpu: 2}}", "3 slots do not fit"),
        ("{pack: {slots: 2, per_gpu: 2}}", "per_gpu needs ngpus"),
    ],
)
def test_resources_that_cannot_be_combined_are_reported(tmp_path: Path, requested: str, message: str) -> None:
    text = f"round: r\nresources: {requested}\nexperiments: {{g: {{path: g, command: 'true'}}}}\n"
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RoundhouseError, match=f"r.yaml:[23]: .*{message}"):
        load_round("r", tmp_path)
