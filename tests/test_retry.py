"""The retry policy: how many attempts an experiment has, what its next job requests, and how both are shown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rounds_for_tests import REPOSITORY

from roundhouse.config.round import load_round
from roundhouse.config.site import load_site
from roundhouse.errors import RoundhouseError
from roundhouse.model import plan
from roundhouse.model.attempt import Attempt, Claim, Opened, Progress, Record, Result
from roundhouse.model.causes import Cause
from roundhouse.model.exit_codes import JobExitCode
from roundhouse.model.experiment import Experiment, Resources
from roundhouse.model.retry import exhausted, next_resources, request
from roundhouse.model.retry_policy import HARD, SOFT, MemoryRetry, NodeRetry, RetryPolicy, WalltimeRetry
from roundhouse.model.status import ExperimentStatus
from roundhouse.schema import keys_of
from roundhouse.store import record
from roundhouse.views import resource_format
from roundhouse.views.explanation import explain

WRITTEN = Resources(ncpus=2, mem_mb=8192, walltime_s=3600)
DEFAULT = RetryPolicy()
SLURM, PBS = {"kind": "slurm", "server": "s", "user": "me"}, {"kind": "pbs", "server": "s", "user": "me"}


def ended(
    cause: Cause,
    *,
    host: str = "node1.cluster",
    code: int | None = None,
    gained: bool = False,
    written: Resources | None = WRITTEN,
    got: Resources | None = None,
    scheduler: dict[str, str] = SLURM,
) -> Attempt:
    """An ended attempt that requested `got` when the round file had `written`. It reports its epochs."""
    resources = request(got or written, written) if written else {}
    opened = Opened("token", scheduler, "hash", {}, "1", resources=resources)
    if cause in (Cause.RETRY, Cause.REFUSED, Cause.UNCLAIMED):
        mark = cause if cause is Cause.RETRY else None
        return Attempt(0, replace(opened, mark=mark), Claim(True, cause))
    progress = Progress(epoch=3 + gained, epochs=9, started_epoch=3)
    return Attempt(0, opened, Claim(nonce="n", host=host), Result(cause, "the reason", code), progress)


MEMORY, STUCK = ended(Cause.MEMORY, code=JobExitCode.MEMORY), ended(Cause.WALLTIME)
GPU_MEMORY, NODE = ended(Cause.MEMORY, code=JobExitCode.GPU_MEMORY), ended(Cause.NODE)
ERROR, RETRY, REFUSED = ended(Cause.ERROR), ended(Cause.RETRY), ended(Cause.REFUSED)


def following(*attempts: Attempt, policy: RetryPolicy = DEFAULT, written: Resources = WRITTEN) -> Resources:
    return next_resources(written, attempts, policy)


# -------------------------------------------------------------------------------------------------- number of attempts


def tries(**numbers: int) -> RetryPolicy:
    growing = ("memory", "walltime", "node")
    return DEFAULT.updated(
        {cause: {"tries": number} if cause in growing else number for cause, number in numbers.items()}
    )


@pytest.mark.parametrize("cause", [Cause.ERROR, Cause.MEMORY, Cause.UNKNOWN, Cause.REFUSED, Cause.WALLTIME, Cause.NODE])
def test_the_policy_limits_the_attempts_of_each_cause(cause: Cause) -> None:
    policy = tries(**{str(cause): 4})
    assert not exhausted([ended(cause)] * 3, policy)
    assert "4 times" in exhausted([ended(cause)] * 4, policy)


def test_all_causes_together_have_the_highest_of_their_limits() -> None:
    policy = tries(memory=4)
    assert not exhausted([MEMORY, MEMORY, ERROR], policy)
    assert exhausted([MEMORY, ERROR, MEMORY, MEMORY], policy)
    assert exhausted([MEMORY, ERROR, ERROR], policy), "the limit of errors is unchanged"


def test_a_limit_of_one_means_no_attempt_after_the_first() -> None:
    assert exhausted([ERROR], tries(error=1)) == "failed once; last cause: error (the reason)"


def test_attempts_before_retry_do_not_count() -> None:
    assert not exhausted([ERROR, ERROR, RETRY, ERROR], DEFAULT)
    assert exhausted([ERROR, RETRY, ERROR, ERROR], DEFAULT)


causes = st.sampled_from([MEMORY, GPU_MEMORY, STUCK, NODE, ERROR, RETRY, REFUSED, ended(Cause.PREEMPTED)])
policies = st.fixed_dictionaries({cause: st.integers(1, 9) for cause in ("error", "memory", "walltime", "node")})


@given(st.lists(causes), policies)
def test_attempts_always_end_and_a_higher_limit_never_ends_them_earlier(
    attempts: list[Attempt], numbers: dict[str, int]
) -> None:
    fewer, more = tries(**numbers), tries(**{cause: number + 1 for cause, number in numbers.items()})
    assert exhausted(attempts, fewer) or not exhausted(attempts, more)
    assert exhausted([*attempts, *[ERROR] * 9], fewer)


# -------------------------------------------------------------------------------------------- the next resource request


def test_memory_grows_after_memory_ran_out_and_after_nothing_else() -> None:
    assert [following(*[MEMORY] * count).mem_mb for count in range(3)] == [8192, 16384, 32768]
    for other in (ERROR, STUCK, NODE, REFUSED, GPU_MEMORY, ended(Cause.UNKNOWN), ended(Cause.PREEMPTED)):
        assert following(other).mem_mb == 8192
    assert following(MEMORY, ERROR).mem_mb == 16384, "it stays at what it grew to"


def test_time_grows_after_a_walltime_without_an_epoch_and_after_nothing_else() -> None:
    assert [following(*[STUCK] * count).walltime_s for count in range(3)] == [3600, 7200, 14400]
    for other in (MEMORY, ERROR, NODE, ended(Cause.WALLTIME, gained=True), ended(Cause.PREEMPTED)):
        assert following(other).walltime_s == 3600
    silent = replace(STUCK, progress=Progress(epoch=0, epochs=None))
    assert following(silent).walltime_s == 3600, "it may have made progress"
    assert following(STUCK, ended(Cause.WALLTIME, gained=True)).walltime_s == 7200, "it stays at what it grew to"


def test_growth_ends_at_most_and_never_below_the_round_file() -> None:
    policy = replace(DEFAULT, memory=MemoryRetry(factor=1.5, most=10_000), walltime=WalltimeRetry(factor=3, most=1800))
    assert following(MEMORY, policy=policy).mem_mb == 10_000
    assert following(STUCK, policy=policy).walltime_s == 3600


def test_memory_that_is_not_requested_cannot_grow() -> None:
    assert following(MEMORY, MEMORY, written=replace(WRITTEN, mem_mb=None)).mem_mb is None


def test_after_a_change_of_the_round_file_only_later_attempts_count() -> None:
    assert following(MEMORY, written=replace(WRITTEN, mem_mb=4096)).mem_mb == 4096
    grown = ended(Cause.MEMORY, got=replace(WRITTEN, mem_mb=16384))
    assert following(MEMORY, grown, written=replace(WRITTEN, mem_mb=12288)).mem_mb == 12288
    assert following(STUCK, written=replace(WRITTEN, mem_mb=4096)).walltime_s == 7200, "the walltime is unchanged"
    assert following(ended(Cause.MEMORY, written=None)).mem_mb == 16384, "an old record contains no resources"


def test_after_retry_it_requests_what_the_round_file_says() -> None:
    assert following(MEMORY, STUCK, NODE, RETRY) == WRITTEN


def test_nodes_that_failed_are_excluded() -> None:
    other = ended(Cause.NODE, host="node2")
    assert following(NODE, other, NODE).exclude == ("node1", "node2")
    assert following(NODE, policy=replace(DEFAULT, node=NodeRetry(exclude=False))).exclude == ()
    assert following(ended(Cause.PREEMPTED)).exclude == ()


def test_a_refusal_clears_the_nodes_because_there_may_be_no_other() -> None:
    assert following(NODE, REFUSED).exclude == ()
    assert following(NODE, REFUSED, NODE).exclude == ("node1",)


@pytest.mark.parametrize("host", ["", "node[1-9]", "a b", "-x", "n\n#SBATCH"])
def test_a_text_that_is_not_a_node_name_does_not_reach_a_header(host: str) -> None:
    assert following(ended(Cause.NODE, host=host)).exclude == ()


def test_no_nodes_are_excluded_on_pbs_which_cannot_do_so() -> None:
    failed = ended(Cause.NODE, scheduler=PBS)
    assert following(failed).exclude == ()
    assert resource_format.remarks(WRITTEN, [failed], DEFAULT) == [
        "node1 failed, but is not excluded: its scheduler does not support it"
    ]


def test_a_batch_is_divided_after_the_gpus_memory_ran_out_if_the_policy_says_so() -> None:
    policy = replace(DEFAULT, memory=MemoryRetry(tries=4, accumulate=True))
    assert [following(*[GPU_MEMORY] * count, policy=policy).accumulate for count in range(4)] == [1, 2, 4, 8]
    assert following(MEMORY, STUCK, policy=policy).accumulate == 1
    assert following(GPU_MEMORY).accumulate == 1


@given(st.lists(causes), st.floats(1, 10), st.integers(1, 10**6) | st.none())
def test_no_request_shrinks_below_the_round_file_or_grows_above_most(
    attempts: list[Attempt], factor: float, most: int | None
) -> None:
    policy = replace(DEFAULT, memory=MemoryRetry(100, factor, most), walltime=WalltimeRetry(100, factor, most))
    found = following(*attempts, policy=policy)
    assert found.mem_mb is not None
    for value, least in ((found.mem_mb, 8192), (found.walltime_s, 3600)):
        assert value >= least
        assert most is None or value <= max(most, least)
    assert following(*attempts, RETRY, policy=policy) == WRITTEN


# ------------------------------------------------------------------------------------------------- policies in files


def write(folder: Path, retry: str) -> Path:
    (folder / "r.yaml").write_text(f"round: r\nretry: {retry}\nexperiments: {{a: {{path: a, command: 'true'}}}}\n")
    return folder


def policy_in(folder: Path, retry: str, site: str = "{}") -> RetryPolicy:
    (folder / "s.yaml").write_text(f"retry: {site}\n")
    (experiment,) = load_round("r", write(folder, retry)).at(load_site("s", folder, "host").retry).experiments
    return experiment.retry


def test_the_policy_that_is_not_written_is_the_default(tmp_path: Path) -> None:
    assert policy_in(tmp_path, "{}") == DEFAULT
    assert DEFAULT.limit(Cause.ERROR) == DEFAULT.limit(Cause.WALLTIME) == 2
    assert DEFAULT.limit(Cause.NODE) == 20
    assert {cause.value for cause in (*HARD, *SOFT)} == keys_of(RetryPolicy).keys()


def test_a_policy_is_read_from_the_round_file(tmp_path: Path) -> None:
    policy = policy_in(
        tmp_path,
        "{error: 3, memory: {tries: 4, factor: 1.5, most: 128gb, accumulate: true}, input: 5, "
        'walltime: {factor: 3, most: "48:00:00"}, node: {tries: 6, exclude: false}}',
    )
    assert policy == RetryPolicy(
        error=3,
        memory=MemoryRetry(4, 1.5, 128 * 1024, accumulate=True),
        walltime=WalltimeRetry(factor=3, most=48 * 3600),
        node=NodeRetry(6, exclude=False),
        input=5,
    )


def test_most_can_equal_the_first_request(tmp_path: Path) -> None:
    retry = "{memory: {most: 2gb}, walltime: {most: 3600}}\nresources: {mem: 2gb}"
    assert policy_in(tmp_path, retry).memory.most == 2048


def test_a_number_alone_means_tries(tmp_path: Path) -> None:
    policy = policy_in(tmp_path, "{memory: 3, walltime: 4, node: 5}")
    assert (policy.memory, policy.walltime, policy.node) == (MemoryRetry(3), WalltimeRetry(4), NodeRetry(5))


def test_the_round_overrides_the_site_key_by_key(tmp_path: Path) -> None:
    site = "{error: 5, memory: {tries: 6, most: 64gb}, node: {exclude: false}}"
    policy = policy_in(tmp_path, "{memory: {factor: 3, most: null}, error: 1}", site)
    assert (policy.error, policy.memory, policy.node) == (1, MemoryRetry(6, 3, None), NodeRetry(exclude=False))


@pytest.mark.parametrize(
    ("retry", "message"),
    [
        ("{eror: 2}", "r.yaml:2: unknown key 'retry.eror': did you mean 'error'?"),
        ("{memory: {facter: 2}}", "r.yaml:2: unknown key 'retry.memory.facter': did you mean 'factor'?"),
        ("{error: 0}", "r.yaml:2: retry.error should be greater than or equal to 1, not 0"),
        ("{error: twice}", "r.yaml:2: retry.error should be a whole number, not 'twice'"),
        ("{memory: {factor: 0.5}}", "r.yaml:2: retry.memory.factor should be greater than or equal to 1, not 0.5"),
        ("{memory: {most: much}}", "r.yaml:2: retry.memory.most: 'much' is not an amount of memory"),
        ("{walltime: {most: long}}", "r.yaml:2: retry.walltime.most: 'long' is not a walltime"),
        ("{error: {tries: 2}}", "r.yaml:2: retry.error should be a whole number"),
        (
            "{memory: {most: 1gb}}\nresources: {mem: 2gb}",
            "r.yaml:2: retry.memory: most is less than the mem that group",
        ),
        (
            "{walltime: {most: 3599}}",
            "r.yaml:2: retry.walltime: most is less than the walltime that group 'a' requests",
        ),
    ],
)
def test_mistakes_are_reported_with_their_line(tmp_path: Path, retry: str, message: str) -> None:
    with pytest.raises(RoundhouseError) as raised:
        load_round("r", write(tmp_path, retry))
    assert message in str(raised.value)


@pytest.mark.parametrize("model", [RetryPolicy, MemoryRetry, WalltimeRetry, NodeRetry])
def test_the_reference_names_every_key(model: type) -> None:
    section = (REPOSITORY / "docs/round_file.md").read_text().partition("## Retry")[2].partition("\n## ")[0]
    table = "".join(line for line in section.splitlines(keepends=True) if line.startswith("| `"))
    assert keys_of(model).keys() <= set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", table))))


def test_a_mistake_in_a_site_file_is_reported_equally(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("scheduler: slurm\nretry:\n  node: {exlude: true}\n")
    with pytest.raises(RoundhouseError, match=r"s.yaml:3: unknown key 'retry.node.exlude': did you mean 'exclude'"):
        load_site("s", tmp_path, "host")


# ------------------------------------------------------------------------------------------------- the record


def test_the_resource_request_is_in_the_record(tmp_path: Path) -> None:
    grown = replace(WRITTEN, mem_mb=16384, exclude=("node1",))
    opened = Opened("token", SLURM, "hash", {}, resources=request(grown, WRITTEN))
    assert record.open_attempt(tmp_path, 1, opened)
    (attempt,) = record.read(tmp_path).attempts
    assert attempt.opened.resources == {
        "ncpus": 2, "mpiprocs": None, "mem_mb": 16384, "ngpus": 0, "walltime_s": 3600, "queue": None,
        "array": False, "max_running": None, "pack": None, "exclude": ["node1"], "accumulate": 1,
        "instead_of": {"mem_mb": 8192},
    }  # fmt: skip


@given(st.dictionaries(st.sampled_from(["mem_mb", "walltime_s", "exclude", "accumulate", "instead_of"]),
                       st.none() | st.integers() | st.text() | st.lists(st.integers())
                       | st.dictionaries(st.sampled_from(["mem_mb", "walltime_s"]), st.text())))  # fmt: skip
def test_unreadable_resources_in_the_record_are_harmless(resources: dict[str, Any]) -> None:
    attempt = replace(MEMORY, opened=replace(MEMORY.opened, resources=resources))
    assert following(attempt).mem_mb in (8192, 16384)
    assert isinstance(resource_format.changes(resources), str)


# ----------------------------------------------------------------------------------------------------- output


def explained(*attempts: Attempt, policy: RetryPolicy = DEFAULT, written: Resources = WRITTEN) -> list[str]:
    numbered = tuple(replace(one, number=number) for number, one in enumerate(attempts, 1))
    rec = Record(Path("/nowhere"), numbered, next_number=len(attempts) + 1)
    action = plan.decide(rec, plan.Unknown(), plan.Inputs({}), plan.Clock(0, 0, 0), "hash", retry=policy)
    row = ExperimentStatus(Experiment("r", "e", "e", None, {}, written, retry=policy), rec, action, plan.Inputs({}))
    return explain(row).splitlines()


def notes(*attempts: Attempt, policy: RetryPolicy = DEFAULT, written: Resources = WRITTEN) -> Sequence[str]:
    lines = explained(*attempts, policy=policy, written=written)
    return [line.removeprefix("  note      ") for line in lines if line.startswith("  note")]


def test_why_shows_the_policy() -> None:
    assert (
        "  retries   error 2, memory 2 (memory x 2 each), walltime 2 (without a newly saved step, time x 2 each), "
        "unknown 2, unclaimed 2, refused 2; in a row without a newly saved step: preempted 20, "
        "node 20 (failed nodes are excluded), deleted 20, input 20"
    ) in explained()
    memory = MemoryRetry(factor=1.5, most=128 * 1024, accumulate=True)
    policy = replace(DEFAULT, memory=memory, walltime=WalltimeRetry(factor=1.0), node=NodeRetry(exclude=False))
    (policy_line,) = [line for line in explained(policy=policy) if line.startswith("  retries")]
    assert "memory 2 (memory x 1.5 each, at most 128 GB; GPU: batch in twice as many parts each)" in policy_line
    assert "walltime 2 (without a newly saved step)," in policy_line
    assert "node 20," in policy_line


def test_why_shows_what_an_attempt_requested_if_it_differs_from_the_round_file() -> None:
    grown = replace(WRITTEN, mem_mb=16384, walltime_s=14400, exclude=("node17",))
    lines = [line for line in explained(MEMORY, ended(Cause.PREEMPTED, got=grown)) if line.startswith("  attempt")]
    assert "requested" not in lines[0]
    assert "; requested 16 GB, 4:00:00; excludes node17; started on" in lines[1]
    cut = ended(Cause.PREEMPTED, got=replace(WRITTEN, accumulate=4))
    assert "; computes a batch in 4 times as many parts; started on" in "\n".join(explained(cut))


def test_why_shows_what_the_next_attempt_requests() -> None:
    assert explained()[-1] == "  next      requests 2 cores, 8 GB, 1:00:00, as in the round file"
    assert explained(MEMORY, NODE)[-1] == "  next      requests 2 cores, 16 GB, 1:00:00; excludes node1"
    assert not any(line.startswith("  next") for line in explained(ERROR, ERROR)), "there is none"


def test_why_explains_where_requesting_more_cannot_help() -> None:
    assert notes(MEMORY) == []
    assert notes(MEMORY, written=replace(WRITTEN, mem_mb=None)) == [
        "memory ran out, but the round file requests no `mem` that could be multiplied"
    ]
    small = replace(DEFAULT, memory=MemoryRetry(most=9216), walltime=WalltimeRetry(most=5400))
    assert notes(MEMORY, policy=small) == ["memory is not increased beyond 9 GB, the limit of `retry`"]
    assert notes(STUCK, policy=small) == ["walltime is not increased beyond 1:30:00, the limit of `retry`"]
    assert notes(NODE, REFUSED) == ["node1 failed, but is not excluded: a job was refused since"]
    (note,) = notes(GPU_MEMORY)
    assert note.startswith("GPU memory ran out, which more memory for the job cannot prevent")
    assert notes(GPU_MEMORY, GPU_MEMORY) == [note], "when it has failed, too"
    assert notes(GPU_MEMORY, policy=replace(DEFAULT, memory=MemoryRetry(accumulate=True))) == []
