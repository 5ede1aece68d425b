"""The table of what follows a failed attempt, and the few states in which a RayJob is changed."""

import pytest
from support.fake_kube import RUNNING, rayjob

from trainer.cluster import retries
from trainer.cluster.outcome import Outcome
from trainer.cluster.retries import ACTIONS, Action, Phase, Retries, phase_of
from trainer.errors import ExitCode

PASSING = Outcome("failed", ExitCode.TRAINING, "a node was lost", retry=True)
LASTING = Outcome("failed", ExitCode.DIVERGED, "the loss became nan")
STOPPED = Outcome("stopped", ExitCode.INTERRUPTED, "stopped")


def failed(state="Running", count=0, limit=2):
    return rayjob(jobDeploymentStatus=state, jobStatus="FAILED", failed=count, spec={"backoffLimit": limit})


@pytest.fixture
def changes():
    return []


@pytest.fixture
def announced():
    return []


@pytest.fixture
def make(changes, announced):
    def make(passive=False):
        return Retries(changes.append, lambda job, failure: announced.append(failure), passive)

    return make


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("state", "count", "limit", "phase"),
    [
        ("Running", 0, 2, Phase.UNDECIDED),
        ("Running", 1, 2, Phase.UNDECIDED),
        ("Running", 2, 2, Phase.EXHAUSTED),
        ("Running", 0, 0, Phase.EXHAUSTED),
        ("Retrying", 1, 2, Phase.REPLACING),
        ("Retrying", 2, 2, Phase.REPLACING),
        ("Failed", 0, 2, Phase.OVER),
        ("Suspending", 0, 2, Phase.OVER),
        ("Suspended", 3, 2, Phase.OVER),
    ],
)
def test_the_phase_is_the_rayjobs(state, count, limit, phase):
    assert phase_of(failed(state, count, limit)) is phase


def test_a_grown_count_of_failures_means_that_kuberay_is_retrying():
    assert phase_of(failed("Initializing", 1), failed_before=0) is Phase.REPLACING
    assert phase_of(failed("Initializing", 1), failed_before=1) is Phase.UNDECIDED
    assert phase_of(failed("Failed", 1), failed_before=0) is Phase.OVER


def test_a_rayjob_without_limit_is_not_retried():
    job = rayjob(jobDeploymentStatus="Running", jobStatus="FAILED", spec={"backoffLimit": None})
    assert phase_of(job) is Phase.EXHAUSTED


def test_the_table_has_an_action_for_every_phase():
    assert set(ACTIONS) == {(phase, retry) for phase in Phase for retry in (True, False)}
    assert Action.FORBID not in {action for (_, retry), action in ACTIONS.items() if retry}
    assert Action.SUSPEND not in {action for (_, retry), action in ACTIONS.items() if retry}
    assert Action.FOLLOW not in {action for (_, retry), action in ACTIONS.items() if not retry}


# state, failures so far; whether it ends, and whether a retry is announced
ALLOWED = [
    ("Running", 0, False),
    ("Running", 1, False),
    ("Retrying", 1, False),
    ("Running", 2, True),
    ("Failed", 3, True),
]


@pytest.mark.parametrize(("state", "count", "ends"), ALLOWED)
@pytest.mark.parametrize("passive", [False, True])
def test_a_passing_failure_is_followed_while_retries_are_left(make, changes, announced, state, count, ends, passive):
    failure = LASTING if passive else PASSING
    ended = make(passive).end(failed(state, count), failure, failure)
    assert ended == (failure if ends else None)
    assert announced == ([] if ends else [failure])
    assert changes == []


def test_a_passing_failure_that_the_rayjob_does_not_know_is_waited_for(make, announced):
    assert make().end(rayjob(**RUNNING), PASSING, None) is None
    assert announced == []


def test_a_running_attempt_goes_on(make, changes):
    assert make().end(rayjob(**RUNNING), None, None) is None
    assert changes == []


def test_a_stopped_run_has_ended(make, changes):
    assert make().end(rayjob(**RUNNING), None, STOPPED) is STOPPED
    assert changes == []


def test_a_lasting_failure_forbids_further_retries_once(make, changes):
    decided = make()
    for _ in range(3):
        assert decided.end(failed("Running", 1), LASTING, LASTING) is None
    assert changes == [{"spec": {"backoffLimit": 1}}]


def test_the_drivers_line_forbids_retries_before_the_rayjob_knows(make, changes, clock):
    decided = make()
    assert decided.end(rayjob(**RUNNING), LASTING, None) is None
    clock[0] += 1000
    assert decided.end(rayjob(**RUNNING), LASTING, None) is None  # not an end before the RayJob knows
    assert changes == [{"spec": {"backoffLimit": 0}}]


@pytest.mark.parametrize(("waited_s", "ends"), [(19.0, False), (20.0, False), (21.0, True)])
def test_kuberay_has_twenty_seconds_to_decide(make, clock, waited_s, ends):
    decided = make()
    decided.end(failed(), LASTING, LASTING)
    clock[0] += waited_s
    assert (decided.end(failed(), LASTING, LASTING) is LASTING) is ends


@pytest.mark.parametrize("state", ["Failed", "Suspending", "Suspended"])
def test_a_lasting_failure_ends_when_the_rayjob_is_over(make, changes, state):
    by_job = Outcome("failed", ExitCode.DIVERGED, "by KubeRay")
    assert make().end(failed(state, 1), LASTING, by_job) is by_job
    assert make().end(failed(state, 1), LASTING, None) is LASTING
    assert changes == []


def test_an_attempt_that_has_already_begun_is_suspended(make, changes):
    assert make().end(failed("Retrying", 1), None, LASTING) is LASTING
    assert changes == [{"spec": {"suspend": True}}]


def test_an_attempt_that_began_between_two_polls_is_suspended(make, changes):
    decided = make()
    decided.end(rayjob(**RUNNING), LASTING, None)
    assert decided.end(rayjob(jobDeploymentStatus="Initializing", failed=1), LASTING, None) is LASTING
    assert changes == [{"spec": {"backoffLimit": 0}}, {"spec": {"suspend": True}}]


def test_an_exhausted_rayjob_is_not_patched(make, changes):
    assert make().end(failed("Running", 2), LASTING, LASTING) is None
    assert changes == []


def test_a_later_failure_is_decided_by_itself(make, changes, clock):
    decided = make()
    decided.end(failed("Running", 0), LASTING, None)
    decided.end(rayjob(**RUNNING), None, None)
    decided.end(failed("Running", 1), LASTING, None)
    assert changes == [{"spec": {"backoffLimit": 0}}, {"spec": {"backoffLimit": 1}}]
