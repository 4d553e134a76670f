"""Which qdel commands delete a set of jobs: all of them, no others, and without crashing a real PBS server."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from roundhouse.model.answers import array_id
from roundhouse.schedulers.pbs_answers import Attributes
from roundhouse.schedulers.pbs_qdel import TASK, commands, ranges


def array(number: int, states: str, submitted: str = "") -> dict[str, Attributes]:
    """An array with a task in each of these states."""
    indices = submitted or f"0-{len(states) - 1}"
    parent = {"job_state": "B", "array_indices_submitted": indices}
    tasks = {f"{number}[{index}].head": {"job_state": state} for index, state in enumerate(states)}
    return {f"{number}[].head": parent, **tasks}


def expanded(words: Iterable[str], jobs: dict[str, Attributes]) -> set[str]:
    """The jobs and tasks that the arguments of a qdel name."""
    found = set()
    for word in words:
        number, _, rest = word.partition("[")
        indices, _, server = rest.partition("]")
        if "[" not in word:
            found.add(word)
        elif not indices:
            found |= {one for one in jobs if array_id(one) == word and one != word}
        else:
            first, _, last = indices.partition("-")
            found |= {f"{number}[{index}]{server}" for index in range(int(first), int(last or first) + 1)}
    return found


def test_all_live_tasks_of_an_array_are_deleted_with_the_array_in_one_command_with_other_jobs() -> None:
    jobs = {**array(5, "XRQ"), **array(6, "QQ"), "7.head": {"job_state": "Q"}}
    wanted = ["5[1].head", "6[1].head", "5[2].head", "7.head", "6[0].head"]
    assert commands(wanted, jobs) == [["5[].head", "6[].head", "7.head"]]


def test_a_part_of_an_array_is_deleted_range_by_range_with_queued_tasks_first() -> None:
    jobs = array(5, "RRRQQQHQQ")
    wanted = [f"5[{index}].head" for index in (8, 0, 4, 6, 1, 5)]
    assert commands(wanted, jobs) == [["5[4-6].head"], ["5[8].head"], ["5[0-1].head"]]


def test_an_array_of_which_not_all_tasks_are_listed_is_not_deleted_as_a_whole() -> None:
    jobs = array(5, "Q", submitted="0-2")
    assert commands(["5[0].head"], jobs) == [["5[0].head"]]
    assert commands(["5[0].head"], array(5, "Q", submitted="0-0:2")) == [["5[0].head"]]


def test_a_task_that_is_ending_does_not_prevent_deleting_its_array() -> None:
    assert commands(["5[1].head"], array(5, "EQ")) == [["5[].head"]]


def test_ranges_are_sorted_by_number() -> None:
    assert ranges([f"5[{index}].head" for index in (10, 9, 2, 100, 1)]) == [
        "5[1-2].head",
        "5[9-10].head",
        "5[100].head",
    ]


arrays = st.lists(st.text("QRHXE", min_size=1, max_size=8), max_size=4)


@given(arrays, st.integers(0, 30), st.data())
def test_exactly_the_wanted_jobs_are_deleted_and_tasks_alone_in_their_command(
    states: list[str], plain: int, data: st.DataObject
) -> None:
    jobs: dict[str, Attributes] = {f"{1000 + number}.head": {"job_state": "Q"} for number in range(plain)}
    for number, one in enumerate(states):
        jobs |= array(number + 1, one)
    alive = sorted(one for one, job in jobs.items() if job["job_state"] not in "XE" and "[]" not in one)
    wanted = data.draw(st.permutations(alive).map(lambda shuffled: shuffled[: data.draw(st.integers(0, len(alive)))]))
    made = commands(wanted, jobs)
    assert all(len(words) <= 20 for words in made)
    assert all(len(words) == 1 for words in made if any("[" in word and "[]" not in word for word in words))
    deleted = [expanded(words, jobs) for words in made]
    assert set().union(*deleted) & {*alive} == {*wanted}
    assert sum(len(one & {*alive}) for one in deleted) == len(wanted)  # each in one command only
    ended = {one for one in jobs if TASK.fullmatch(one) and jobs[one]["job_state"] == "X"}
    assert not any(one & ended for words, one in zip(made, deleted, strict=True) if "[]" not in "".join(words))
