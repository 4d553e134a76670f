"""Groups that select the best settings of another: valid round files, what is selected, and real rounds."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rounds_for_tests import Rounds, rounds  # noqa: F401
from test_evaluate import CLOCK, ended

from analysis.rounds import Folders, read_round
from roundhouse.config.round import Round, load_round
from roundhouse.errors import RoundhouseError
from roundhouse.model.attempt import Record
from roundhouse.model.causes import Cause
from roundhouse.model.evaluate import Evidence, evaluate
from roundhouse.model.experiment import Experiment, Selection
from roundhouse.model.plan import State, Verb
from roundhouse.model.selection import Run, ranking
from roundhouse.store import metrics

ROOT = Path(__file__).parents[1]
Load = Callable[[str], Round]
SWEEP = 'sweep: {path: "s/{lr}/{seed}", grid: {lr: [1, 2, 4], seed: [0, 1]}}'
BEST = "select: {from: sweep, metric: loss, mode: min}"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a round with a group `sweep` of 3 settings and 2 seeds, and others as written."""

    def read(text: str) -> Round:
        head = "round: example\nstudy: s\ndefaults: {width: 3}\nexperiments:\n"
        groups = f"  {SWEEP}\n" + textwrap.indent(textwrap.dedent(text), "  ")
        (tmp_path / "example.yaml").write_text(head + groups)
        return load_round("example", tmp_path)

    return read


def mistake(load: Load, text: str) -> str:
    with pytest.raises(RoundhouseError) as caught:
        load(text)
    return str(caught.value).partition("example.yaml:")[2]


# ---------------------------------------------------------------------------------------------- valid round files


def test_there_is_an_experiment_for_each_rank_and_each_of_the_groups_own_values(load: Load) -> None:
    loaded = load("""\
        best:
          path: "b/{rank}/{seed}"
          select: {from: sweep, metric: loss, mode: min, top: 2}
          grid: {seed: [5, 6]}
    """)
    made = loaded.experiments[6:]
    assert [one.path for one in made] == ["b/1/5", "b/1/6", "b/2/5", "b/2/6"]
    assert all(one.undecided and len(one.after["sweep"]) == 6 for one in made)
    assert made[3].config == {"rank": 2, "seed": 6}, "the rest comes with the choice"


def test_a_group_may_wait_for_a_selecting_one_and_choose_from_it(load: Load) -> None:
    loaded = load(f"""\
        best: {{path: "b/{{seed}}", {BEST}, grid: {{seed: [0, 1]}}}}
        last: {{path: last, select: {{from: best, metric: loss, mode: max}}, command: "train {{lr}} {{width}}"}}
        after: {{path: after, after: {{best: {{seed: 1}}}}}}
    """)
    last, after = loaded.experiments[-2:]
    assert last.after == {"best": ("b/0", "b/1")}
    assert after.after == {"best": ("b/1",)}


@pytest.mark.parametrize(
    ("group", "line", "message"),
    [
        ('{path: "b/{lr}", ' + BEST + "}", 6, "unknown name 'lr': choose from rank; keys that come from the "
         "selected settings of group 'sweep' cannot be used here"),
        ('{path: b, ' + BEST + ', priority: "lr + 1"}', 6, ": choose from rank"),
        ("{path: b, " + BEST + ", resources: {when: [{if: 'width == 3', ngpus: 1}]}}", 6, "'width == 3': "),
        ("{path: b, select: {from: sweeep, metric: loss, mode: min}}", 6, "no other group is called 'sweeep': did you"),
        ("{path: b, select: {from: best, metric: loss, mode: min}}", 6, "a group cannot select from itself"),
        ('{path: "b/{rank}", select: {from: sweep, metric: loss, mode: min, top: 4}}', 6,
         "group 'sweep' has 3 settings (without seeds): cannot select the best 4"),
        ("{path: b, select: {from: sweep, metric: loss, mode: min, top: 2}}", 6, "add a key that differs to the path"),
        ("{path: b, select: {from: sweep, metric: loss, mode: least}}", 6, "'min' or 'max', not 'least'"),
        ("{path: b, select: {from: sweep, metric: loss}}", 6, "needs the key 'mode'"),
        ("{path: b, select: {from: sweep, metric: loss, mode: min, tops: 1}}", 6, "did you mean 'top'?"),
        ("{path: b, " + BEST + ", grid: {rank: [1]}}", 6, "'rank' is the rank of the selected setting"),
        ("{path: b, " + BEST + ", after: [sweep]}", 6, "depends on all of 'sweep' because it selects from it"),
        ('{path: "b/{rank}", ' + BEST + ", include: [{rank: 2}]}", 6,
         "needs the rank of the selected setting, from 1 to 1"),
        ("{path: b, " + BEST + ', command: "train {lr} {depth}"}', 6, "unknown name 'depth'"),
        ("{path: b, " + BEST + ', command: "train {seed}"}', 6, "unknown name 'seed'"),
        ("{path: b, select: {from: [], metric: loss, mode: min}}", 6, "should be a group or a list of groups, not []"),
        ("{path: b, select: {from: [sweep, sweep], metric: loss, mode: min}}", 6, "contains 'sweep' twice"),
        ("{path: b, select: {from: [sweep, swep], metric: loss, mode: min}}", 6, "no other group is called 'swep'"),
        ("{path: b, select: {from: sweep, metric: loss, mode: min, where: 'loss >'}}", 6, "'loss >' is not an expr"),
        ("{path: b, select: {from: sweep, metric: loss, mode: min, where: 5}}", 6, "where should be text, not 5"),
        ("{path: b, select: {from: sweep, metric: loss, mode: min, per: widht}}", 6,
         "per of select: group 'sweep' has experiments without the key 'widht': did you mean 'width'?"),
        ("{path: b, select: {from: sweep, metric: loss, mode: min, per: seed}}", 6, "seeds are compared by their mean"),
        ('{path: "b/{lr}", select: {from: sweep, metric: loss, mode: min, per: lr, top: 2}}', 6,
         "group 'sweep' has 1 setting with lr=1 (without seeds): cannot select the best 2"),
        ('{path: "b/{lr}", select: {from: sweep, metric: loss, mode: min, per: lr}, grid: {lr: [1]}}', 6,
         "'lr' is `per` of select in group 'best', which sets its values: leave it out"),
        ('{path: "b/{lr}", select: {from: sweep, metric: loss, mode: min, per: lr}, include: [{rank: 1, lr: 3}]}', 6,
         "needs the key 'lr': one of 1, 2, 4"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_by_file_and_line(load: Load, group: str, line: int, message: str) -> None:
    found = mistake(load, f"best: {group}\n")
    assert found.startswith(f"{line}: "), found
    assert message in found


OTHER = 'other: {path: "o/{lr}/{seed}", grid: {lr: [2, 4, 8], seed: [0, 1]}}'


def test_a_group_selects_from_several_groups_and_depends_on_all_of_them(load: Load) -> None:
    loaded = load(f"""\
        {OTHER}
        best:
          path: "b/{{rank}}"
          select: {{from: [sweep, other], metric: loss, mode: min, top: 6}}
          command: "train {{lr}} {{width}}"
    """)
    best = [one for one in loaded.experiments if one.group == "best"]
    assert [one.path for one in best] == [f"b/{rank}" for rank in range(1, 7)], "there are 6 settings, in two groups"
    assert {group: len(paths) for group, paths in best[0].after.items()} == {"sweep": 6, "other": 6}


def test_per_gives_an_experiment_for_each_value_and_rank_that_depends_only_on_runs_with_this_value(load: Load) -> None:
    loaded = load(f"""\
        {OTHER}
        best:
          path: "b/lr_{{lr}}/{{rank}}/{{seed}}"
          select: {{from: [sweep, other], metric: loss, mode: min, per: lr, top: 1}}
          grid: {{seed: [5, 6]}}
          exclude: [{{lr: 8, seed: 6}}]
          priority: "lr"
        last: {{path: "l/{{lr}}", after: {{best: {{lr: "{{lr}}"}}}}, grid: {{lr: [2, 8]}}}}
    """)
    best = [one for one in loaded.experiments if one.group == "best"]
    assert [one.path.removeprefix("b/lr_") for one in best] == [
        "1/1/5", "1/1/6", "2/1/5", "2/1/6", "4/1/5", "4/1/6", "8/1/5"
    ]  # fmt: skip
    assert [one.priority for one in best] == [1, 1, 2, 2, 4, 4, 8]
    assert best[0].after == {"sweep": ("s/1/0", "s/1/1")}
    assert best[2].after == {"sweep": ("s/2/0", "s/2/1"), "other": ("o/2/0", "o/2/1")}
    assert best[2].config == {"lr": 2, "rank": 1, "seed": 5}
    assert loaded.experiments[-1].after == {"best": ("b/lr_8/1/5",)}


def test_per_takes_values_that_a_selecting_group_has_itself_wherever_it_is_written(load: Load) -> None:
    loaded = load("""\
    last: {path: "l/{lr}", select: {from: best, metric: loss, mode: min, per: lr}}
    best: {path: "b/{lr}", select: {from: sweep, metric: loss, mode: min, per: lr}}
    """)
    assert [one.path for one in loaded.experiments if one.group == "last"] == ["l/1", "l/2", "l/4"]
    wrong = """\
    last: {path: "l/{lr}", select: {from: best, metric: loss, mode: min, per: lr}}
    best: {path: "b", select: {from: sweep, metric: loss, mode: min}}
    """
    message = mistake(load, wrong)
    assert "group 'best' has experiments without the key 'lr': choose from rank; keys that come from" in message


LATER = """\
tuned: {path: "t/{width}/{seed}", select: {from: sweep, metric: loss, mode: min}, grid: {width: [6, 7], seed: [0, 1]}}
best: {path: "b/{lr}", select: {from: [sweep, tuned], metric: loss, mode: min, per: lr}}
"""


def test_a_group_that_selects_the_key_of_per_is_waited_for_by_each_of_its_values(load: Load) -> None:
    best = [one for one in load(LATER).experiments if one.group == "best"]
    assert [one.path for one in best] == ["b/1", "b/2", "b/4"], "the values of the group that has them"
    tuned = ("t/6/0", "t/6/1", "t/7/0", "t/7/1")
    assert [one.after for one in best] == [
        {"sweep": (f"s/{lr}/0", f"s/{lr}/1"), "tuned": tuned} for lr in (1, 2, 4)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("one: {path: one, grid: {seed: [0]}}\nbest: {path: 'b/{lr}', select: {from: [sweep, one], metric: loss, "
         "mode: min, per: lr}}\n", "group 'one' has experiments without the key 'lr'"),
        ("tuned: {path: t, select: {from: sweep, metric: loss, mode: min}}\nbest: {path: 'b/{depth}', select: {from: "
         "[sweep, tuned], metric: loss, mode: min, per: depth}}\n", "without the key 'depth'"),
    ],
    ids=["a group without select", "a key that is not selected"],
)  # fmt: skip
def test_a_group_that_will_not_have_the_key_of_per_is_an_error(load: Load, groups: str, message: str) -> None:
    assert message in mistake(load, groups)


@pytest.mark.parametrize(("tuned_loss", "winner"), [(0.5, "tuned"), (9.0, "sweep")])
def test_runs_whose_value_of_per_was_selected_compete_only_where_it_is_the_same(
    load: Load, tuned_loss: float, winner: str
) -> None:
    experiments = load(LATER).experiments

    def statuses(complete: Callable[[Experiment], bool]) -> Any:
        found = {}
        for one in experiments:
            loss = float(one.config["lr"]) if one.group == "sweep" else tuned_loss
            done = (ended(made(one), Cause.COMPLETED, loss),) if complete(one) else ()
            found[one.path] = Record(Path("/nowhere"), done, next_number=1 + len(done))
        return evaluate(experiments, Evidence(found, metrics, CLOCK))

    def made(one: Experiment) -> Experiment:
        """As it ran: with the setting that it selected, the rate 1."""
        return one if one.group == "sweep" else waiting[one.path].experiment

    waiting = statuses(lambda one: one.group == "sweep")
    assert "waits for 4 of 6 of groups sweep, tuned with lr=1" in waiting["b/1"].action.reason, "tuned has selected 1"
    assert {waiting[f"b/{lr}"].action.verb for lr in (2, 4)} == {Verb.SUBMIT}, "which concerns no other value"
    unknown = statuses(lambda one: False)
    assert {unknown[f"b/{lr}"].action.state for lr in (1, 2, 4)} == {State.PENDING}
    assert "waits for 6 of 6 of groups sweep, tuned with lr=2" in unknown["b/2"].action.reason, "until it is known"
    decided = statuses(lambda one: one.group in ("sweep", "tuned"))
    chosen = {lr: decided[f"b/{lr}"].experiment for lr in (1, 2, 4)}
    assert {lr: one.config["lr"] for lr, one in chosen.items()} == {1: 1, 2: 2, 4: 4}
    assert {lr: set(one.after) for lr, one in chosen.items()} == {1: {winner}, 2: {"sweep"}, 4: {"sweep"}}


def test_groups_that_select_from_each_other_are_a_cycle(load: Load) -> None:
    message = mistake(
        load,
        """\
        one: {path: one, select: {from: two, metric: loss, mode: min}}
        two: {path: two, after: [one]}
        """,
    )
    assert "in a cycle" in message


# ---------------------------------------------------------------------------------------------- selection


def run(lr: float, seed: int, value: float) -> Run:
    return Run(f"s/{lr}/{seed}", {"lr": lr, "seed": seed}, value)


def test_settings_are_ranked_by_the_mean_over_their_seeds_so_that_no_lucky_seed_wins() -> None:
    lucky = [run(1, 0, 0.1), run(1, 1, 0.9), run(2, 0, 0.4), run(2, 1, 0.4)]
    assert [one.config for one in ranking(lucky, "min")] == [{"lr": 2}, {"lr": 1}]
    assert [one.config for one in ranking(lucky, "max")] == [{"lr": 1}, {"lr": 2}]


def test_equal_means_are_ranked_by_path_and_values_that_are_no_numbers_come_last() -> None:
    tied = [run(4, 0, 0.5), run(2, 0, 0.5), run(1, 0, math.nan), run(3, 0, 0.7)]
    for mode, order in (("min", [2, 4, 3, 1]), ("max", [3, 2, 4, 1])):
        assert [one.config["lr"] for one in ranking(tied, mode)] == order


def test_a_seed_that_all_runs_share_belongs_to_the_choice() -> None:
    assert ranking([run(1, 7, 0.5), run(2, 7, 0.6)], "min")[0].config == {"lr": 1, "seed": 7}


VALUES = st.one_of(st.floats(-1e6, 1e6), st.just(math.nan), st.sampled_from([0.1, 0.2, 0.3]))


@given(
    values=st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 3)), VALUES, min_size=1),
    shuffle=st.randoms(use_true_random=False),
    mode=st.sampled_from(["min", "max"]),
)
def test_the_ranking_is_the_same_in_whatever_order_the_runs_are_read(
    values: dict[tuple[int, int], float], shuffle: random.Random, mode: str
) -> None:
    runs = [run(lr, seed, value) for (lr, seed), value in values.items()]
    first = ranking(runs, mode)
    shuffle.shuffle(runs)
    assert [(one.paths, one.config) for one in ranking(runs, mode)] == [(one.paths, one.config) for one in first]
    means = [one.mean for one in first if math.isfinite(one.mean)]
    assert means == sorted(means, reverse=mode == "max")
    assert {path for one in first for path in one.paths} == {path for path, *_ in runs}


def test_the_choice_is_the_same_in_another_process() -> None:
    code = """
        import hashlib, math
        from roundhouse.model.selection import Run, ranking
        values = lambda lr, seed: math.sin(lr * 12.9898 + seed * 78.233)
        pairs = [(lr, seed) for lr in range(40) for seed in range(5)]
        runs = [Run(f"s/{lr}/{seed}", {"lr": lr, "seed": seed}, values(lr, seed)) for lr, seed in pairs]
        text = repr([(one.paths, one.config, one.mean.hex()) for one in ranking(runs, "min")])
        print(hashlib.sha256(text.encode()).hexdigest())
    """
    seen = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("0", "1")
    }  # fmt: skip
    assert len(seen) == 1


LOSSES = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.integers(0, 2), st.integers(0, 1)),  # group, data, lr, seed
    st.tuples(st.sampled_from([0.25, 0.5, 0.75, math.nan]), st.sampled_from([1.0, 2.0])),  # loss, size
    min_size=1,
)


@given(values=LOSSES, shuffle=st.randoms(use_true_random=False))
def test_a_selection_with_where_and_per_is_the_best_setting_of_each_value_whatever_the_order(
    values: dict[tuple[str, int, int, int], tuple[float, float]], shuffle: random.Random
) -> None:
    keys = list(values)
    runs = {key: Experiment("r", key[0], "/".join(map(str, key)), "s", named(key)) for key in keys}
    groups = tuple(sorted({group for group, *_ in keys}))
    rule = Selection(
        groups=groups, metric="loss", mode="min", where="size < 2 and lr < 2", per="data", rank=1, inputs=True
    )
    wanted = {}
    for data in {data for _, data, *_ in keys}:
        after = {group: tuple(runs[key].path for key in keys if key[:2] == (group, data)) for group in groups}
        wanted[data] = Experiment("r", "best", f"best/{data}", "s", {"data": data}, after=after, selection=rule)
    known = {one.path: one for one in [*runs.values(), *wanted.values()]}
    found = {path: Record(Path("/nowhere")) for path in known}
    for key, (loss, size) in values.items():
        done = ended(runs[key], Cause.COMPLETED, loss)
        progress = replace(done.progress, final={"loss": loss, "size": size}) if done.progress else None
        found[runs[key].path] = Record(Path("/nowhere"), (replace(done, progress=progress),), next_number=2)
    experiments = list(known.values())
    shuffle.shuffle(experiments)
    statuses = evaluate(experiments, Evidence(found, metrics, CLOCK))

    for data, one in wanted.items():
        settings: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for group, value, lr, seed in keys:
            if value == data:
                settings.setdefault((group, lr), []).append(values[group, value, lr, seed])
        means = {key: [sum(part) / len(part) for part in zip(*each, strict=True)] for key, each in settings.items()}
        usable = {key: loss for key, (loss, size) in means.items() if size < 2 and key[1] < 2 and math.isfinite(loss)}
        status = statuses[one.path]
        if not usable:
            assert (status.action.state, status.experiment.undecided) == (State.BLOCKED, True)
            continue
        chosen = status.experiment
        (group,) = chosen.after
        assert usable[group, chosen.config["lr"]] == min(usable.values())
        assert chosen.config["data"] == data
        assert set(chosen.after[group]) <= {
            runs[key].path for key in keys if key[:3] == (group, data, chosen.config["lr"])
        }


@pytest.mark.parametrize("cause", [Cause.PRUNED, Cause.DIVERGED])
def test_a_setting_that_was_pruned_or_diverged_in_one_group_is_still_chosen_from_another(cause: Cause) -> None:
    runs = [Experiment("r", group, f"{group}/{lr}", "s", {"lr": lr}) for group in "ab" for lr in (1, 2)]
    after = {group: tuple(one.path for one in runs if one.group == group) for group in "ab"}
    rule = Selection(groups=("a", "b"), metric="loss", mode="min", rank=1)
    best = Experiment("r", "best", "best", "s", {}, after=after, selection=rule)

    def chosen(*gone: str) -> Experiment:
        found = {best.path: Record(Path("/nowhere"))}
        for one in runs:
            loss = one.config["lr"] + (1.0 if one.group == "b" else 0.0)
            attempt = ended(one, cause if one.path in gone else Cause.COMPLETED, loss)
            found[one.path] = Record(Path("/nowhere"), (attempt,), next_number=2)
        return evaluate([*runs, best], Evidence(found, metrics, CLOCK))["best"].experiment

    assert chosen("a/1").after == {"a": ("a/2",)}, "equal means by path"
    choice = chosen("a/1").selection
    assert choice
    assert f"rank 1 of 3 settings left (1 {cause}) of a, b by the lowest mean loss: group a, lr=2" in choice.choice
    assert chosen("a/1", "a/2").after == {"b": ("b/1",)}


def named(key: tuple[str, int, int, int]) -> dict[str, Any]:
    return dict(zip(("data", "lr", "seed"), key[1:], strict=True))


# ---------------------------------------------------------------------------------------------- rounds that run

SHELL = ["bash", "-c"]
LOSS = 'echo "{{\\"loss\\": {lr}.{seed}}}" > {directory}/metrics.json'
PRINT = "echo {lr} {seed} {width} $ROUNDHOUSE_INPUT_SWEEP > {directory}/printed"


def stages(**best: Any) -> dict[str, Any]:
    """A round of three stages: a sweep, its best settings, and what waits for these."""
    grid = best.pop("grid", {"seed": [0, 7]})
    select = {"from": "sweep", "metric": "loss", "mode": "max", "top": 2, **best}
    return {
        "sweep": {
            "path": "s/{lr}/{seed}", "grid": {"lr": [3, 1, 2], "seed": [0, 1]}, "config": {"width": 5},
            "command": [*SHELL, LOSS],
        },
        "best": {"path": "b/{rank}/{seed}", "select": select, "grid": grid, "command": [*SHELL, PRINT]},
        "last": {"path": "last", "after": ["best"], "command": "true"},
    }  # fmt: skip


def printed(rounds: Rounds, path: str) -> list[str]:  # noqa: F811
    (written,) = rounds.directory(path).glob("attempts/*/files/printed")
    return written.read_text().split()


def folders(rounds: Rounds, *paths: str) -> str:  # noqa: F811
    return ":".join(str(rounds.directory(path) / "attempts/1/files") for path in paths)


def test_three_stages_run_one_after_the_other_and_each_selection_is_shown_with_its_spread(
    rounds: Rounds,  # noqa: F811
) -> None:
    rounds.write(stages())
    waiting = rounds.status()
    assert waiting["b/1/0"]["reason"] == "waits for 6 of 6 of group sweep"
    assert waiting["b/1/0"]["goes_on"]
    done = rounds.call()
    assert done.returncode == 0, done.stdout
    assert printed(rounds, "b/1/0") == ["3", "0", "5", folders(rounds, "s/3/0")], "the run with its own seed"
    assert printed(rounds, "b/2/7") == ["2", "7", "5", folders(rounds, "s/2/0", "s/2/1")], "or else all of the setting"
    line = "best: rank 2 of 3 settings of sweep by the highest mean loss: lr=2, 2.0500 ± 0.0707 (2 seeds); "
    assert line + "the best not chosen: lr=1, 1.0500 ± 0.0707 (2 seeds)" in done.stdout
    explanation = rounds.call("--why", "b/2/7").stdout
    assert "selected  rank 2 of 3 settings of sweep" in explanation
    again = rounds.call()
    assert again.returncode == 0
    assert set(rounds.states().values()) == {"completed"}


def test_the_chosen_runs_need_be_no_inputs(rounds: Rounds) -> None:  # noqa: F811
    rounds.write(stages(inputs=False))
    assert rounds.call().returncode == 0
    assert printed(rounds, "b/1/0") == ["3", "0", "5"]


def test_a_failed_run_keeps_the_selection_open_and_is_reported(rounds: Rounds) -> None:  # noqa: F811
    groups = stages()
    groups["sweep"]["command"] = [*SHELL, f"[ {{lr}} != 1 ] || exit 1; {LOSS}"]
    rounds.write(groups)
    assert rounds.call().returncode == 4
    best = rounds.status()["b/1/0"]
    assert (best["state"], best["goes_on"]) == ("pending", False)
    assert best["reason"].startswith("waits for 2 of 6 of group sweep, and 2 will not complete automatically (s/1/0 is")
    groups["sweep"]["exclude"] = [{"lr": 1}]
    rounds.write(groups)
    assert rounds.call().returncode == 0
    assert printed(rounds, "b/1/0")[0] == "3"


def test_a_diverged_run_ranks_its_setting_last_and_what_depends_on_it_reports_it(
    rounds: Rounds,  # noqa: F811
) -> None:
    groups = stages(top=2)
    groups["sweep"]["command"] = [*SHELL, f"{LOSS}; [ {{lr}}{{seed}} != 31 ] || exit 79"]
    groups["all"] = {"path": "all", "after": ["sweep"], "command": "true"}
    rounds.write(groups)
    done = rounds.call()
    assert done.returncode == 4, "only because of what depends on the diverged run"
    assert "Round r: 12 experiments: 1 pending, 10 completed, 1 diverged." in done.stdout
    assert printed(rounds, "b/1/0")[0] == "2"
    assert printed(rounds, "b/2/0")[0] == "1"
    assert "best: rank 1 of 2 settings left (1 diverged) of sweep by the highest mean loss: lr=2" in done.stdout
    one = rounds.status()["s/3/1"]
    assert (one["state"], one["cause"], one["reason"]) == ("diverged", "diverged", "the training diverged")
    assert not one["goes_on"]
    assert rounds.status()["all"]["reason"] == "waits for s/3/1, which is diverged: the training diverged"
    result = json.loads((rounds.directory("s/3/1") / "attempts/1/result.json").read_text())
    assert (result["cause"], result["final"], result["exit_code"]) == ("diverged", True, 79)

    del groups["all"]
    rounds.write(groups)
    assert rounds.call().returncode == 0, "the round is done with a diverged run"
    rounds.call("--retry")
    assert rounds.causes("s/3/1") == ["diverged"], "--retry alone does not retry it"
    assert "s/3/1: will be retried" in rounds.call("--retry", "--only", "s/3/1").stdout
    assert rounds.causes("s/3/1") == ["diverged", "retry", "diverged"]
    assert rounds.call("--archive").returncode == 0
    assert rounds.states()["s/3/1"] == "diverged"


def test_if_everything_diverged_the_selection_is_blocked_and_says_so(rounds: Rounds) -> None:  # noqa: F811
    groups = stages(top=1, grid={"seed": [0]})
    groups["sweep"]["command"] = [*SHELL, "exit 79"]
    rounds.write(groups)
    assert rounds.call().returncode == 4
    best = rounds.status()["b/1/0"]
    assert best["reason"] == "there is no rank 1: 0 of the settings of group sweep have a finite loss (3 diverged)"
    assert (best["state"], best["goes_on"]) == ("blocked", False)


def test_a_metric_that_no_run_reports_blocks_the_selection_and_is_named(rounds: Rounds) -> None:  # noqa: F811
    rounds.write(stages(metric="los"))
    assert rounds.call().returncode == 4
    best = rounds.status()["b/1/0"]
    assert best["reason"] == "s/3/0 of group sweep does not report the metric 'los': did you mean 'loss'?"
    assert (best["state"], best["goes_on"]) == ("blocked", False)
    assert "will be retried" not in rounds.call("--retry", "--limit", "0").stdout
    rounds.write(stages())
    assert rounds.call("--limit", "0").returncode == 3
    assert rounds.states()["b/1/0"] == "pending", "it continues once the round file is fixed"


def test_a_selection_that_is_no_longer_the_best_is_reported_and_what_ran_stays(rounds: Rounds) -> None:  # noqa: F811
    groups = stages(top=1, grid={"seed": [0]})
    rounds.write(groups)
    assert rounds.call().returncode == 0
    groups["sweep"]["grid"]["lr"].append(4)
    rounds.write(groups)
    assert rounds.states()["b/1/0"] == "completed", "while the sweep continues, what has run stays"
    assert rounds.call().returncode == 4
    best = rounds.status()["b/1/0"]
    assert best["state"] == "blocked"
    assert "lr was 3, is now 4" in best["reason"]
    assert "It selects from group sweep, whose results now give rank 1 of 4 settings" in best["reason"]


def test_what_waits_for_a_choice_can_be_cancelled_and_tried_again(rounds: Rounds) -> None:  # noqa: F811
    rounds.write(stages())
    assert "b/1/0: cancelled before" in rounds.call("--cancel", "--only", "b/1/*").stdout
    assert rounds.call().returncode == 4
    assert rounds.states()["b/2/0"] == "completed"
    assert rounds.call("--retry").returncode == 0
    assert printed(rounds, "b/1/0")[0] == "3"


def test_the_analysis_reads_a_round_before_and_after_its_choice(rounds: Rounds) -> None:  # noqa: F811
    rounds.write(stages())
    place = Folders(rounds.experiments, rounds.rounds, rounds.analysis)
    rounds.call("--only", "s/*", "--limit", "1")
    before = {one.path: one for one in read_round("r", place).entries}
    assert before["b/1/0"].reason == "waits for 5 of 6 of group sweep"
    rounds.call()
    after = {one.path: one for one in read_round("r", place).entries}
    assert dict(after["b/1/0"].config) == {"width": 5, "lr": 3, "rank": 1, "seed": 0}
    assert after["b/1/0"].state == "completed"


def test_a_value_may_come_from_progress_or_from_the_epoch_of_the_best_weights(rounds: Rounds) -> None:  # noqa: F811
    groups = stages(top=1, grid={"seed": [0]})
    metrics = {"best": {"epoch": 1, "accuracy": 0.9}, "final": None}
    epochs = ['{{"epoch": 1, "loss": {lr}}}', '{{"epoch": 2, "loss": 0}}']
    body = json.dumps(metrics)[1:-1].replace("{", "{{").replace("}", "}}")
    groups["sweep"]["command"] = [
        *SHELL,
        f"echo '{{{{{body}, \"epochs\": [{', '.join(epochs)}]}}}}' > {{directory}}/metrics.json",
    ]
    groups["third"] = {
        "path": "t", "select": {"from": "other", "metric": "cost", "mode": "min"},
        "command": [*SHELL, "echo {x} > {directory}/printed"],
    }  # fmt: skip
    progress = '{{"version": 1, "epoch": 2, "epochs": 2, "metric_name": "cost", "metric": 9, "best": {x}}}'
    groups["other"] = {
        "path": "o/{x}", "grid": {"x": [2, 1]},
        "command": [*SHELL, f"echo '{progress}' > {{directory}}/progress.json"],
    }  # fmt: skip
    rounds.write(groups)
    assert rounds.call().returncode == 0
    assert printed(rounds, "b/1/0")[0] == "3"
    assert printed(rounds, "t") == ["1"]


# ---------------------------------------------------------------------------------- several groups, where, per


def families(**select: Any) -> dict[str, Any]:
    """Two groups, each with data sets and learning rates; `best` selects from both."""

    def sweep(name: str, offset: int) -> dict[str, Any]:
        report = f'echo "{{{{\\"loss\\": {offset}{{lr}}.{{seed}}, \\"size\\": {{lr}}}}}}" > {{directory}}/metrics.json'
        grid = {"data": ["x", "y"], "lr": [1, 2], "seed": [0, 1]}
        return {"path": f"{name}/{{data}}/{{lr}}/{{seed}}", "grid": grid, "command": [*SHELL, report]}

    best = {"from": ["a", "b"], "metric": "loss", "mode": "max", **select}
    path = "best/{data}/{rank}" if select.get("per") else "best/{rank}"
    show = "echo {data} {lr} A=$ROUNDHOUSE_INPUT_A B=$ROUNDHOUSE_INPUT_B > {directory}/printed"
    return {"a": sweep("a", 1), "b": sweep("b", 2), "best": {"path": path, "select": best, "command": [*SHELL, show]}}


def test_settings_of_several_groups_are_ranked_together_and_only_the_chosen_ones_runs_are_inputs(
    rounds: Rounds,  # noqa: F811
) -> None:
    rounds.write(families(top=5))
    assert rounds.status()["best/1"]["reason"] == "waits for 16 of 16 of groups a, b"
    done = rounds.call()
    assert done.returncode == 0, done.stdout
    assert printed(rounds, "best/1") == ["x", "2", "A=", f"B={folders(rounds, 'b/x/2/0', 'b/x/2/1')}"]
    assert printed(rounds, "best/5") == ["x", "2", f"A={folders(rounds, 'a/x/2/0', 'a/x/2/1')}", "B="]
    assert "best: rank 1 of 8 settings of a, b by the highest mean loss: group b, data=x, lr=2, 22.0500" in done.stdout
    assert rounds.call().returncode == 0
    assert set(rounds.states().values()) == {"completed"}, "the choice is stable"


def test_where_leaves_settings_out_by_metrics_and_config_keys_and_the_choice_says_how_many(
    rounds: Rounds,  # noqa: F811
) -> None:
    rounds.write(families(where="loss > 100"))
    assert rounds.call().returncode == 4
    reason = "there is no rank 1: 0 of the settings of groups a, b have a finite loss "
    assert rounds.status()["best/1"]["reason"] == reason + "(8 excluded by where 'loss > 100')"
    where = "loss < 21.5 and size == lr and data != 'x'"
    rounds.write(families(where=where))
    done = rounds.call()
    assert done.returncode == 0, done.stdout
    assert printed(rounds, "best/1")[:2] == ["y", "1"]
    assert f'rank 1 of 3 settings left (5 excluded by where "{where}") of a, b by' in done.stdout


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("los < 2", "no run reports the metric 'los': did you mean 'loss'?"),
        ("loss < data", "'loss < data': '<' not supported between instances of 'float' and 'str' (b/x/2/0)"),
    ],
)
def test_where_without_a_value_blocks_the_selection_and_is_explained(
    rounds: Rounds,  # noqa: F811
    where: str,
    reason: str,
) -> None:
    rounds.write(families(where=where))
    assert rounds.call().returncode == 4
    best = rounds.status()["best/1"]
    assert (best["state"], best["goes_on"]) == ("blocked", False)
    assert best["reason"] == f"where of the selection from groups a, b: {reason}"


def test_each_value_of_per_has_its_own_ranking_and_waits_for_its_own_runs_only(rounds: Rounds) -> None:  # noqa: F811
    groups = families(per="data", top=2)
    fixed = rounds.notes / "fixed"
    groups["b"]["command"] = [*SHELL, f"[ {{data}} != y ] || [ -e {fixed} ] || exit 1; {groups['b']['command'][-1]}"]
    rounds.write(groups)
    done = rounds.call()
    assert done.returncode == 4
    states = rounds.status()
    assert [states[f"best/x/{rank}"]["state"] for rank in (1, 2)] == ["completed", "completed"]
    assert states["best/y/1"]["reason"].startswith("waits for 4 of 8 of groups a, b with data=y, and 4 will not")
    assert "best: rank 1 of 4 settings of a, b with data=x by the highest mean loss: group b, lr=2" in done.stdout
    assert printed(rounds, "best/x/2")[:2] == ["x", "1"]
    fixed.touch()
    assert rounds.call("--retry").returncode == 0
    assert printed(rounds, "best/y/1")[:2] == ["y", "2"]


def test_a_value_of_per_without_a_usable_setting_blocks_only_its_own_experiments(rounds: Rounds) -> None:  # noqa: F811
    groups = families(per="data")
    for name in "ab":
        groups[name]["command"] = [*SHELL, f"{groups[name]['command'][-1]}; [ {{data}} != y ] || exit 79"]
    groups["last"] = {"path": "last/{data}", "select": {"from": "best", "metric": "size", "mode": "min", "per": "data"}}
    groups["best"]["command"] = [*SHELL, 'echo "{{\\"size\\": {lr}}}" > {directory}/metrics.json']
    groups["last"]["command"] = [*SHELL, "echo {lr} > {directory}/printed"]
    rounds.write(groups)
    assert rounds.call().returncode == 4
    states = rounds.status()
    assert {path: states[path]["state"] for path in ("best/x/1", "best/y/1", "last/x", "last/y")} == {
        "best/x/1": "completed", "best/y/1": "blocked", "last/x": "completed", "last/y": "pending"
    }  # fmt: skip
    expected = "there is no rank 1: 0 of the settings of groups a, b with data=y have a finite loss (4 diverged)"
    assert states["best/y/1"]["reason"] == expected
    assert printed(rounds, "last/x") == ["2"], "a later selection uses the config of the first"
    assert not states["last/y"]["goes_on"]


def stages_of(**tuned: Any) -> dict[str, Any]:
    """`base` has both data sets; `tuned` gets its data from the best of `base`; `best` chooses from both, for each."""
    base = 'echo "{{\\"loss\\": {lr}.{seed}}}" > {directory}/metrics.json'
    return {
        "base": {
            "path": "base/{data}/{seed}", "zip": {"data": ["x", "y"], "lr": [3, 2]}, "grid": {"seed": [0, 1]},
            "command": [*SHELL, base],
        },
        "tuned": {
            "path": "tuned/{lr}", "select": {"from": "base", "metric": "loss", "mode": "max", "inputs": False},
            "grid": {"lr": [1, 4]}, "config": {"seed": 0}, "command": [*SHELL, base], **tuned,
        },
        "best": {
            "path": "best/{data}",
            "select": {"from": ["base", "tuned"], "metric": "loss", "mode": "max", "per": "data", "inputs": False},
            "command": [*SHELL, "echo {data} {lr} > {directory}/printed"],
        },
    }  # fmt: skip


def test_a_run_whose_value_of_per_was_selected_is_compared_with_those_of_that_value(rounds: Rounds) -> None:  # noqa: F811
    rounds.write(stages_of())
    assert rounds.status()["best/y"]["reason"] == "waits for 4 of 4 of groups base, tuned with data=y"
    done = rounds.call()
    assert done.returncode == 0, done.stdout
    assert [printed(rounds, f"best/{data}") for data in "xy"] == [["x", "4"], ["y", "2"]]


def test_a_failed_run_whose_value_of_per_was_selected_stops_only_that_value(rounds: Rounds) -> None:  # noqa: F811
    rounds.write(stages_of(command=[*SHELL, "exit 1"]))
    assert rounds.call().returncode == 4
    states = rounds.status()
    assert (states["best/y"]["state"], states["best/x"]["goes_on"]) == ("completed", False)
    assert states["best/x"]["reason"].startswith("waits for 2 of 4 of groups base, tuned with data=x, and 2 will not")


def test_while_the_selection_that_gives_the_value_of_per_is_open_no_choice_is_made() -> None:
    """`tuned` has completed, and a run of `base` runs again: which data `tuned` will then have is not known."""
    base = [Experiment("r", "base", f"base/{data}", "s", {"data": data, "lr": 1}) for data in "xy"]
    rule = Selection(groups=("base",), metric="loss", mode="min", rank=1, inputs=False)
    tuned = Experiment("r", "tuned", "tuned", "s", {"lr": 2}, selection=rule,
                       after={"base": tuple(one.path for one in base)})  # fmt: skip
    every = Selection(groups=("base", "tuned"), metric="loss", mode="min", per="data", rank=1, inputs=False)
    best = Experiment("r", "best", "best/y", "s", {"data": "y"}, selection=every,
                      after={"base": ("base/y",), "tuned": ("tuned",)})  # fmt: skip

    def found(*attempts: Any) -> Experiment:
        empty = Record(Path("/nowhere"))
        records = {one.path: empty if attempt is None else Record(Path("/nowhere"), (attempt,), next_number=2)
                   for one, attempt in zip([*base, tuned, best], [*attempts, None], strict=True)}  # fmt: skip
        return evaluate([*base, tuned, best], Evidence(records, metrics, CLOCK))["best/y"].experiment

    x, y = (ended(one, Cause.COMPLETED, loss) for one, loss in zip(base, (0.5, 0.25), strict=True))
    selected = replace(tuned, config={**base[1].config, **tuned.config, "rank": 1})
    done = ended(selected, Cause.COMPLETED, 0.125)
    assert found(None, y, done).undecided
    assert "data" in found(x, y, done).config
