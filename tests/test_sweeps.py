"""Sweeps in round files: subsets of items, random draws, sub-sweeps; each the same whenever and wherever it is read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from roundhouse.config.round import Round, json_schema, load_round
from roundhouse.errors import RoundhouseError

ROOT = Path(__file__).parents[1]
Load = Callable[[str], Round]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a round with one group, which is written without its indentation."""
    return lambda text: load_group(yaml.safe_load(textwrap.dedent(text)), tmp_path)


def load_group(group: dict[str, Any], folder: Path) -> Round:
    content = {"round": "example", "study": "s", "experiments": {"only": group}}
    (folder / "example.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return load_round("example", folder)


def expanded(group: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Path and config of each experiment of a group."""
    with TemporaryDirectory() as folder:
        return [(one.path, dict(one.config)) for one in load_group(group, Path(folder)).experiments]


def paths(loaded: Round) -> list[str]:
    return [experiment.path for experiment in loaded.experiments]


def test_a_key_takes_the_subsets_of_the_sizes_named_and_those_selected(load: Load) -> None:
    loaded = load("""\
        path: "{t_name}/{seed}"
        grid: {seed: [0]}
        combinations: {t: {of: [a, 2, true], sizes: [2, 0], select: [[a, true, 2], ["2", a], [a]]}}
    """)
    assert paths(loaded) == ["a+2/0", "a+true/0", "2+true/0", "none/0", "a+2+true/0", "a/0"]
    assert [one.config for one in loaded.experiments][:2] == [{"seed": 0, "t": ["a", 2]}, {"seed": 0, "t": ["a", True]}]


def test_selected_subsets_alone_are_all_there_is(load: Load) -> None:
    loaded = load('path: "{t_name}"\ncombinations: {t: {of: [a, b, c], select: [[c, a], []]}}\n')
    assert [(one.path, one.config["t"]) for one in loaded.experiments] == [("a+c", ["a", "c"]), ("none", [])]


def test_the_printable_name_can_be_used_wherever_a_key_can_and_is_not_in_the_config(tmp_path: Path) -> None:
    (tmp_path / "example.yaml").write_text(
        textwrap.dedent("""\
            round: example
            experiments:
              first:
                path: "first/{t_name}"
                combinations: {t: {of: [a, b], sizes: [1]}}
                command: "train {t_name} {t}"
                priority: "5 if t_name == 'b' else 0"
                resources: {when: [{if: "'a' in t", ngpus: 1}]}
              then:
                path: "then/{t_name}"
                combinations: {t: {of: [a, b], sizes: [1]}}
                include: [{t: [a, b, x]}]
                exclude: [{t: [a]}]
                command: train
                after: {first: {t_name: b}}
        """)
    )
    experiments = load_round("example", tmp_path).experiments
    assert [(one.command, one.priority, one.resources.ngpus) for one in experiments[:2]] == [
        (("train", "a", '["a"]'), 0, 1),
        (("train", "b", '["b"]'), 5, 0),
    ]
    assert [(one.path, one.after["first"]) for one in experiments[2:]] == [
        ("then/b", ("first/b",)),
        ("then/a+b+x", ("first/b",)),
    ]
    assert all(one.config.keys() == {"t"} for one in experiments)


@settings(deadline=None, max_examples=30)
@given(items=st.integers(1, 6), data=st.data(), seeds=st.integers(1, 3))
def test_there_are_as_many_subsets_as_binomials_say_and_no_two_alike(
    items: int, data: st.DataObject, seeds: int
) -> None:
    sizes = data.draw(st.lists(st.integers(0, items), min_size=1, unique=True))
    found = expanded(
        {
            "path": "{t_name}/{seed}",
            "grid": {"seed": list(range(seeds))},
            "combinations": {"t": {"of": list("abcdef"[:items]), "sizes": sizes}},
        }
    )
    assert len(found) == seeds * sum(math.comb(items, size) for size in sizes)
    assert len({path for path, _ in found}) == len(found)
    assert all(config["t"] == sorted(set(config["t"])) and len(config["t"]) in sizes for _, config in found)


NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)
LIMITS = st.tuples(NUMBERS, NUMBERS).map(sorted).filter(lambda pair: pair[1] - pair[0] > 1e-3 * (1 + abs(pair[1])))
DISTRIBUTIONS = st.one_of(
    st.builds(lambda pair: {"uniform": pair}, LIMITS),
    st.builds(lambda low, times: {"log_uniform": [low, low * times]}, st.floats(1e-9, 1e3), st.floats(1.5, 1e6)),
    st.builds(lambda low, span: {"integer": [low, low + span]}, st.integers(-50, 50), st.integers(1, 9)),
    st.builds(lambda values: {"choice": values}, st.lists(st.text("xyz", min_size=1), min_size=1, max_size=4)),
)
DRAWN = st.dictionaries(st.sampled_from(["lr", "decay", "width", "model"]), DISTRIBUTIONS, min_size=1)


def draws(count: int, seed: int, keys: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    path = "_".join(["{draw}", *(f"{{{key}}}" for key in sorted(keys) if "choice" not in keys[key])])
    return expanded({"path": f"d{path}", "random": {"count": count, "seed": seed, **keys}})


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 8), more=st.integers(0, 8), seed=st.integers(-3, 2**40), keys=DRAWN)
def test_a_larger_count_keeps_all_that_was_drawn_before(count: int, more: int, seed: int, keys: dict[str, Any]) -> None:
    few, many = draws(count, seed, keys), draws(count + more, seed, keys)
    assert many[:count] == few
    assert [config["draw"] for _, config in many] == list(range(count + more))
    assert len({path for path, _ in many}) == count + more


@settings(deadline=None, max_examples=30)
@given(keys=DRAWN, data=st.data())
def test_a_draw_depends_neither_on_the_other_keys_nor_on_their_order(keys: dict[str, Any], data: st.DataObject) -> None:
    together = draws(5, 1, keys)
    shuffled = draws(5, 1, {key: keys[key] for key in data.draw(st.permutations(list(keys)))})
    assert shuffled == together
    for key in keys:
        alone = draws(5, 1, {key: keys[key]})
        assert [config[key] for _, config in alone] == [config[key] for _, config in together]


@settings(deadline=None, max_examples=50)
@given(written=DISTRIBUTIONS, seed=st.integers(0, 99))
def test_draws_lie_within_their_limits_and_have_six_digits(written: dict[str, Any], seed: int) -> None:
    ((kind, limits),) = written.items()
    for _, config in draws(10, seed, {"x": written}):
        value = config["x"]
        if kind == "choice":
            assert value in limits
            continue
        assert limits[0] <= value <= limits[1]
        assert type(value) is (int if kind == "integer" else float)
        if kind != "integer":
            assert value == float(f"{value:.6g}") or value in limits


def test_draws_cover_their_distribution_evenly() -> None:
    keys = {"lr": {"log_uniform": [1e-4, 1]}, "x": {"uniform": [0, 4]}, "n": {"integer": [1, 4]}}
    keys["c"] = {"choice": list("abcd")}
    configs = [config for _, config in draws(2000, 3, keys)]
    quarters = [
        [math.floor(math.log10(config["lr"])) + 4 for config in configs],
        [math.floor(config["x"]) for config in configs],
        [config["n"] - 1 for config in configs],
        ["abcd".index(config["c"]) for config in configs],
    ]
    for quarter in quarters:
        assert all(400 < quarter.count(number) < 600 for number in range(4))
    assert len({tuple(column) for column in zip(*quarters, strict=True)}) == 4**4


RANDOM = {
    "count": 3,
    "seed": 7,
    "lr": {"log_uniform": [1e-4, 1e-1]},
    "u": {"uniform": [-1, 1]},
    "n": {"integer": [-3, 3]},
    "c": {"choice": ["x", "y", "z"]},
}


def test_the_draws_of_a_seed_never_change() -> None:
    assert [config for _, config in expanded({"path": "{draw}", "random": RANDOM})] == [
        {"draw": 0, "lr": 0.000119523, "u": 0.361231, "n": 1, "c": "x"},
        {"draw": 1, "lr": 0.00184824, "u": -0.8053, "n": -3, "c": "z"},
        {"draw": 2, "lr": 0.000141607, "u": 0.615584, "n": -1, "c": "x"},
    ]


def test_a_round_expands_equally_in_processes_with_different_hash_seeds_and_on_every_machine(tmp_path: Path) -> None:
    load_group(
        {
            "path": "{focus}/{draw}/{t_name}/{w}/{x}/{z}",
            "config": {"w": 1, "some": {"b": 1e-7, "a": [1e22, None, True, "ü"]}},
            "grid": {"x": [0.1, 1e-05]},
            "zip": {"z": ["a", 0.30000000000000004], "y": [1e16, 2]},
            "focus": {"wide": {"grid": {"w": [2, 3]}}, "narrow": {"grid": {"v": [1]}}},
            "combinations": {"t": {"of": ["a", "b", "c"], "sizes": [1, 2]}},
            "random": RANDOM,
        },
        tmp_path,
    )
    code = (
        "import json, sys; from pathlib import Path; from roundhouse.config.round import load_round;"
        "found = load_round('example', Path(sys.argv[1])).experiments;"
        "print(json.dumps([[one.path, one.config, one.config_hash()] for one in found]))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    ]
    assert said[0] == said[1]
    assert len(json.loads(said[0])) == 3 * 6 * 3 * 2 * 2
    assert hashlib.sha256(said[0]).hexdigest() == "5bb8419851f7a7a4c07bc364ab276a8bc729f0fd895b0b11e8b436388955cf97"


def test_in_each_sub_sweep_only_its_own_keys_vary_and_all_are_combined_with_the_grid(load: Load) -> None:
    loaded = load("""\
        path: "{focus}/{lr}_{width}/{seed}"
        config: {lr: 0.1, width: 16}
        grid: {seed: [0, 1]}
        focus: {rates: {grid: {lr: [1, 2]}}, both: {grid: {lr: [1], width: [8, 9]}}}
        exclude: [{focus: both, width: 9}, {focus: rates, seed: 1}]
        include: [{focus: base, seed: 0}]
    """)
    assert paths(loaded) == ["rates/1_16/0", "rates/2_16/0", "both/1_8/0", "both/1_8/1", "base/0.1_16/0"]
    assert loaded.experiments[0].config == {"lr": 1, "width": 16, "focus": "rates", "seed": 0}


def test_all_that_is_swept_is_combined_the_last_changing_fastest(load: Load) -> None:
    loaded = load("""\
        path: "{focus}/{g}/{z}/{t_name}/{draw}"
        random: {count: 2, x: {uniform: [0, 1]}}
        combinations: {t: {of: [a, b], sizes: [1]}}
        zip: {z: [3, 4], y: [5, 6]}
        grid: {g: [1, 2]}
        focus: {one: {grid: {f: [0]}}, two: {grid: {h: [0]}}}
    """)
    assert paths(loaded) == ["/".join(parts) for parts in product(("one", "two"), "12", "34", "ab", "01")]
    drawn = {(one.config["draw"], one.config["x"]) for one in loaded.experiments}
    assert len(drawn) == 2, "a draw is the same in every combination"


# As in test_round.py: `#! TEXT` marks each line with a mistake: parts of its message, separated by `|`.
MISTAKES = {
    "combinations": """\
        a:
          path: "a/{x_name}"
          combinations:
            x:
              of: [a, b, a]                      #! combinations of 'x' in group 'a': 'a' is in `of` twice
              sizes: [1, 3, 4, 1]                #! no 4 items in `of`, only 3|size 1 appears twice
              select:
                - [a, bb]                        #! 'bb' is not an item of `of`: did you mean 'b'?
                - [b, b]                         #! b+b has an item twice
                - [a, b]
                - [b, a]                         #! a+b is selected twice
            y:                                   #! needs sizes or select
              of: []                             #! `of` is empty
            z:
              of:
                - [1]                            #! item [1] is a list
                - 1
                - "1"                            #! '1' is in `of` twice
              sizes: [1]
        b:
          path: b
          combinations: {}                       #! combinations of group 'b' is empty
        c:
          path: c
          combinations:
            x:
              of: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]
              sizes: [12]                        #! more than 1,000,000 subsets
    """,
    "random": """\
        a:
          path: "a/{draw}"
          random:
            count: 0                             #! count must be between 1 and 1,000,000
            seed: x                              #! seed must be a whole number, not 'x'
            a: {unifrom: [0, 1]}                 #! 'a' has the unknown distribution 'unifrom': did you mean 'uniform'?
            b: {uniform: [1, 1]}                 #! from a low number to a high one, not from 1 to 1
            c: {log_uniform: [0, 1]}             #! above 0, not at 0
            d: {integer: [0, 1.5]}               #! two whole numbers, [LOW, HIGH], not [0, 1.5]
            e: {choice: []}                      #! a list of values, not []
            f: 5                                 #! needs one distribution|known are uniform, log_uniform, choice
            g:
              uniform: [0, 1]                    #! needs one distribution
              choice: [a]
            h: {uniform: [1, 1.0000001]}         #! equal in the 6 digits
            i: {uniform: [0, 1, 2]}              #! two numbers
            j: {uniform: [false, true]}          #! two numbers
        b:
          path: b
          random: {count: 3}                     #! draws no key
        c:
          path: c
          random: {seed: 3, x: {uniform: [0, 1]}}  #! needs the key 'count'
        d:
          path: d
          random: {count: 2000000, x: {uniform: [0, 1]}}  #! between 1 and 1,000,000
    """,
    "focus": """\
        a:
          path: "a/{focus}"
          focus:
            x: {grid: {}}                        #! grid of focus 'x' in group 'a' is empty
            y: {grid: {k: []}}                   #! grid of focus 'y' in group 'a' has no values for 'k'
        b:
          path: b
          focus: {}                              #! focus of group 'b' is empty
    """,
    "a key swept twice": """\
        a:
          path: a
          grid: {seed: [0], x: [1]}
          zip:
            y: [1]
          combinations:
            x: {of: [a], sizes: [1]}             #! 'x' is both in grid and in combinations of group 'a'
          random:
            count: 1
            seed: 5
            y: {uniform: [0, 1]}                 #! 'y' is both in zip and in random of group 'a'
          focus:
            one: {grid: {seed: [1], free: [1]}}  #! 'seed' is both in grid and in focus of group 'a'
            two: {grid: {free: [2]}}
    """,
    "names that sweeps set": """\
        a:
          path: a
          grid:
            focus: [1]                           #! 'focus' is the name of the sub-sweep in focus in group 'a'
          config:
            draw: 1                              #! 'draw' is the number of the draw from random in group 'a'
          combinations:
            x: {of: [a], sizes: [1]}
            x_name: {of: [a], sizes: [1]}        #! 'x_name' is the printable name of 'x' in group 'a'
          random:
            count: 1
            draw: {uniform: [0, 1]}              #! 'draw' is the number
          focus: {one: {grid: {free: [1]}}}
          include:
            - {x: [a], x_name: b}                #! 'x_name' is the printable name of 'x' in group 'a': leave it out
    """,
    "form": """\
        a:
          path: a
          combinations:
            x: {size: [1]}                       #! did you mean 'sizes'?|needs the key 'of'
            y: {of: [a], sizes: [-1]}            #! greater than or equal to 0
            a-b: {of: [a], sizes: [1]}           #! letters, digits and _
          focus:
            a b: {grid: {x: [1]}}                #! letters, digits, - and _ only
            c: {gird: {x: [1]}}                  #! did you mean 'grid'?|needs the key 'grid'
          random:
            count: 1
            directory: {uniform: [0, 1]}         #! choose another key
    """,
    "too many together": """\
        a:                                       #! group 'a' has more than 1,000,000 combinations
          path: a
          grid: {a: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], b: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], c: [0, 1]}
          random: {count: 10000, x: {uniform: [0, 1]}}
    """,
    "exclude": """\
        a:
          path: "{t_name}/{draw}"
          combinations: {t: {of: [a, b], sizes: [1, 2]}}
          random: {count: 2, x: {uniform: [0, 1]}}
          exclude:
            - {t: [b, a]}                        #! matches no combination of group 'a'
            - {drew: 1}                          #! not in grid or zip or combinations or random of group 'a'|'draw'?
            - {t: [a, b]}
            - {t: [a], draw: 1}
    """,
}


@pytest.mark.parametrize("text", MISTAKES.values(), ids=MISTAKES.keys())
def test_all_mistakes_are_reported_together_each_with_its_line(tmp_path: Path, text: str) -> None:
    text = "round: example\nstudy: s\nexperiments:\n" + textwrap.indent(textwrap.dedent(text), "  ")
    (tmp_path / "example.yaml").write_text(re.sub(r" *#!.*", "", text))
    with pytest.raises(RoundhouseError) as raised:
        load_round("example", tmp_path)
    reported: dict[int, str] = {}
    for line in str(raised.value).splitlines():
        _, where, message = line.split(":", 2)
        reported[int(where)] = reported.get(int(where), "") + message
    expected = {
        number: line.split("#! ")[1].split("|") for number, line in enumerate(text.splitlines(), 1) if "#! " in line
    }
    assert reported.keys() == expected.keys(), reported
    for number, parts in expected.items():
        assert all(part in reported[number] for part in parts), (parts, reported[number])


def test_a_name_that_a_sweep_sets_cannot_be_a_default(tmp_path: Path) -> None:
    (tmp_path / "example.yaml").write_text(
        "round: example\nstudy: s\ndefaults:\n  draw: 1\n"
        'experiments: {a: {path: "{draw}", random: {count: 1, x: {uniform: [0, 1]}}}}\n'
    )
    with pytest.raises(RoundhouseError, match="example.yaml:4: 'draw' is the number of the draw"):
        load_round("example", tmp_path)


def test_the_schema_knows_the_distributions_and_the_keys_of_sweeps() -> None:
    group = json_schema()["$defs"]["Group"]["properties"]
    drawn = group["random"]["additionalProperties"]
    assert drawn["properties"].keys() == {"uniform", "log_uniform", "integer", "choice"}
    assert drawn["additionalProperties"] is False
    assert group["random"]["properties"].keys() == {"count", "seed"}
    assert json_schema()["$defs"]["Subsets"]["required"] == ["of"]
    assert json_schema()["$defs"]["Focus"]["required"] == ["grid"]
