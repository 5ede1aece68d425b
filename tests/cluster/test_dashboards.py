"""The boards of `helm/monitoring` against the Prometheus of the cluster: every query of every panel has an answer.

A board is asked as somebody would have seen it while a run lived, and as it is now, with all runs of the session.
Series of the past are as good as live ones: a query at a moment gives what it gave then.
"""

import time

import pytest
from support.dashboards import FILES, metrics, reason, targets

from tools.dashboards import queries
from tools.dashboards.queries import Prometheus, Range, fill, questions, variables

pytestmark = pytest.mark.ci
RUN = "fashion-mnist"
GAP_S = 120  # between two lives of a run of this name, where the cluster is kept
SESSION_S = 3 * 3600  # longer than all tests take


@pytest.fixture(scope="module")
def asked(run, prometheus):
    """What a board's queries get, by board and place: the number of series at the best moment."""
    here = Prometheus(prometheus.url)
    found = {name: {} for name in FILES}
    for name, board in FILES.items():
        for period, values in moments(board, here):
            for each in questions(board):
                series = each.answer(values, period, here)
                found[name][each.place] = max(found[name].get(each.place, 0), len(series))
    return found


def moments(board, prometheus):
    """Time ranges that end while the run lived, early and late, and now; each with a board's variables."""
    now = time.time()
    session = Range(now - SESSION_S, now)
    (lived,) = prometheus.over(f'max by (run) (ray_trainer_step{{run="{RUN}"}})', session)
    times = [float(at) for at, _ in lived["values"]]
    gaps = [place for place in range(1, len(times)) if times[place] - times[place - 1] > GAP_S]
    begin, end = times[gaps[-1] if gaps else 0], times[-1]
    for share in (0.3, 0.6, 0.9):
        until = begin + share * (end - begin)
        period = Range(until - 1800, until)
        yield period, variables(board, period, prometheus.at, {"run": RUN})
    yield session, variables(board, session, prometheus.at, {})


@pytest.mark.parametrize("name", FILES)
def test_every_query_of_a_board_has_an_answer(asked, name):
    must = {each.place for each in targets(FILES[name]) if reason(each.expression) is None}
    assert must
    assert sorted(place for place in must if not asked[name][place]) == []


@pytest.mark.parametrize("name", FILES)
def test_every_variable_of_a_board_has_values(asked, name):
    of_variables = {place: series for place, series in asked[name].items() if place.startswith("variable ")}
    assert of_variables
    assert [place for place, series in of_variables.items() if not series] == []


def test_every_metric_of_the_boards_exists(run, prometheus):
    here = Prometheus(prometheus.url)
    now = time.time()
    seen = f"count by (__name__) (last_over_time({{__name__=~'.+'}}[{SESSION_S}s]))"
    there = {series["metric"]["__name__"] for series in here.at(seen, now)}
    must = [each.expression for board in FILES.values() for each in targets(board) if not reason(each.expression)]
    named = set().union(*map(metrics, must))
    late = {"ray_memory_manager_worker_eviction_total", "ray_node_manager_unexpected_worker_failure_total"}
    assert sorted(named - there - late) == []  # those begin with their first event


def test_the_run_is_found_by_the_variable_when_it_has_ended(run, prometheus):
    here = Prometheus(prometheus.url)
    now = time.time()
    period = Range(now - SESSION_S, now)
    (variable,) = [each for each in FILES["run"]["templating"]["list"] if each["name"] == "run"]
    values = variables(FILES["run"], period, here.at, {})
    runs = [series["metric"]["run"] for series in here.at(fill(queries.options_query(variable), values), now)]
    assert RUN in runs
    assert values["run"] == runs[0]  # the newest
