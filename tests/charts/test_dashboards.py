"""The boards of `helm/monitoring`: what Grafana's linter asks for, queries that parse, and the ConfigMaps."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import ray
import yaml
from support.charts import ROOT, render
from support.dashboards import FILES, WITHOUT_ANSWER, metrics, reason, targets

from tools.dashboard_pictures.__main__ import _marks, _moment
from tools.dashboards import queries
from tools.dashboards.__main__ import BOARDS, FOLDER
from tools.dashboards.promql import MANY, PARTS, STATES, ended_early, rise, state
from tools.dashboards.queries import Range, fill, panels, questions, variables
from trainer.observe import goodput
from trainer.observe.metrics import METRICS

NAMES = list(BOARDS)
DEFAULTS = yaml.safe_load((ROOT / "helm" / "monitoring" / "values.yaml").read_text())["dashboards"]
HOUR = Range(1_700_000_000, 1_700_003_600)


@pytest.fixture(params=NAMES)
def board(request):
    return FILES[request.param]


def all_panels(board):
    return [each for panel in board["panels"] for each in [panel, *panel.get("panels", [])] if each["type"] != "row"]


def filled(board):
    """Every expression of a board, variables filled in."""
    values = variables(board, HOUR, lambda *_: [{"metric": {"run": "tea", "ray_io_cluster": "tea-x7k2p"}}], {})
    return [fill(each.expression, values) for each in questions(board)]


# --- What Grafana's linter asks for -----------------------------------------------------------------------------------


def test_the_files_are_what_the_code_makes():
    assert {path.stem for path in FOLDER.iterdir()} == set(NAMES)
    assert [name for name in NAMES if BOARDS[name]() != FILES[name]] == []


def test_boards_have_uids_of_their_own_and_one_tag():
    assert len({board["uid"] for board in FILES.values()}) == len(FILES)
    assert {tag for board in FILES.values() for tag in board["tags"]} == {"fashion-mnist-on-ray"}


def test_a_board_is_classic_json_that_nobody_edits(board):
    assert 39 <= board["schemaVersion"] <= 41
    assert board["editable"] is False
    assert board["description"]
    used = {panel["type"] for panel in all_panels(board)}
    assert used <= {"timeseries", "stat", "table", "bargauge", "text"}


def test_every_panel_has_a_title_a_description_and_a_unit(board):
    for panel in all_panels(board):
        assert panel["title"], panel["id"]
        assert panel["description"], panel["title"]
        if panel["type"] != "text":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_titles_and_ids_are_unique_on_a_board(board):
    titles = [panel["title"] for panel in all_panels(board)]
    assert sorted(titles) == sorted(set(titles))
    ids = [panel["id"] for panel in [*board["panels"], *all_panels(board)] if panel["type"] != "row"]
    assert len(set(ids)) == len(all_panels(board))


def test_panels_do_not_overlap(board):
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_query_asks_the_chosen_data_source(board):
    asked = [*panels(board), *(target for panel in panels(board) for target in panel["targets"])]
    asked += [variable for variable in board["templating"]["list"] if variable["type"] == "query"]
    asked += board["annotations"]["list"]
    assert {each["datasource"]["uid"] for each in asked} == {"${datasource}"}
    first = board["templating"]["list"][0]
    assert (first["type"], first["query"], first["name"]) == ("datasource", "prometheus", "datasource")


def test_every_panel_but_text_has_queries_with_a_letter_each(board):
    for panel in all_panels(board):
        if panel["type"] != "text":
            letters = [target["refId"] for target in panel["targets"]]
            assert letters, panel["title"]
            assert len(letters) == len(set(letters)), panel["title"]


def test_variables_find_what_was_there_in_the_time_range(board):
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["refresh"] == 2, variable["name"]  # on a change of the time range
            assert "last_over_time(" in queries.options_query(variable)
            assert "[$__range]" in queries.options_query(variable)


def test_boards_about_a_run_choose_runs_newest_first():
    for name in ("runs", "run", "resources", "goodput-cost"):
        (run,) = [each for each in FILES[name]["templating"]["list"] if each["name"] == "run"]
        assert "sort_desc(max by (run) (last_over_time(ray_trainer_start_timestamp_seconds" in queries.options_query(
            run
        )
        assert run["multi"] == run["includeAll"] == (name in ("runs", "goodput-cost"))


def test_rates_are_over_what_grafana_finds_right(board):
    for place, expression, _ in questions(board):
        windows = re.findall(r"\b(?:rate|irate)\((?:[^()\[\]]|\{[^}]*\})*\[([^\]]+)\]", expression)
        assert set(windows) <= {"$__rate_interval"}, place


def test_counters_of_ray_that_begin_with_their_first_event_are_in_no_rate(board):
    late = r"\b(?:rate|increase|delta|changes)\((?:ray_memory_manager|ray_node_manager|ray_node_failure|kueue_evicted)"
    assert [place for place, expression, _ in questions(board) if re.search(late, expression)] == []


def test_no_query_needs_what_is_not_installed_or_forgotten_by_ray(board):
    never = r"\bkube_\w+|ray_train_controller_state|ray_train_worker_group_\w+|container_spec_\w+"
    assert [place for place, expression, _ in questions(board) if re.search(never, expression)] == []


def test_tables_show_runs_that_have_ended():
    for name in ("runs", "goodput-cost"):
        (table,) = [panel for panel in panels(FILES[name]) if panel["title"] == "Runs"]
        live_only = [t["expr"] for t in table["targets"] if "last_over_time" not in t["expr"]]
        assert all("ray_trainer_eta_seconds" in expression for expression in live_only)
        assert all(target["instant"] and target["format"] == "table" for target in table["targets"])


# --- Metrics ----------------------------------------------------------------------------------------------------------


def test_every_training_metric_in_a_query_is_declared(board):
    declared = {metric.exported for metric in METRICS}
    used = {name for _, expression, _ in questions(board) for name in re.findall(r"\bray_trainer_\w+", expression)}
    assert used - declared == set()


def test_every_training_metric_is_on_some_board():
    text = json.dumps(FILES)
    assert [metric.exported for metric in METRICS if not re.search(rf"\b{metric.exported}\b", text)] == []


def test_every_metric_of_ray_on_a_board_is_in_this_ray():
    package = Path(ray.__file__).parent
    sources = [
        "core/src/ray/raylet/raylet",
        "core/src/ray/gcs/gcs_server",
        "dashboard/modules/reporter/reporter_agent.py",
    ]
    sources += ["autoscaler/_private/prom_metrics.py"]
    code = b"".join((package / source).read_bytes() for source in sources)
    names = {name for board in FILES.values() for each in targets(board) for name in metrics(each.expression)}
    names = {name for name in names if re.match(r"(ray|autoscaler)_(?!trainer_)", name)}
    assert len(names) > 25
    declared = {name: name.partition("_")[2].removesuffix("_total").encode() for name in names}  # Ray adds _total
    assert sorted(name for name, word in declared.items() if word not in code) == []


def test_every_part_of_the_time_has_a_name_and_a_color():
    assert set(PARTS) == set(goodput.PARTS)


def test_every_query_parses(board, tmp_path):
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed")
    rules = [{"record": f"board:query_{number}", "expr": each} for number, each in enumerate(filled(board))]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_reason_for_no_answer_is_of_some_query_and_few_have_one():
    all_of_them = [expression for board in FILES.values() for _, expression, _ in targets(board)]
    reasons = [reason(expression) for expression in all_of_them]
    assert {why for why in reasons if why} == set(WITHOUT_ANSWER.values())
    assert reasons.count(None) > 0.7 * len(reasons)


def evaluated(tmp_path, series, expression, *minutes):
    """What an expression gives at each minute for series in the notation of promtool, by the label `run`."""
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed")
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    expr = " ".join(expression.split())
    nothing = [{"labels": "{}", "value": -1}]  # so that promtool says what it got
    asked = [{"expr": expr, "eval_time": f"{minute}m", "exp_samples": nothing} for minute in minutes]
    tests = [{"interval": "1m", "input_series": inputs, "promql_expr_test": asked}]
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    answers = re.findall(r"got:(.*)", done.stdout + done.stderr)
    assert len(answers) == len(minutes), done.stderr
    samples = r'\{[^}]*run="([^"]+)"[^}]*\} ([^\s,]+)'
    return [{run: float(value) for run, value in re.findall(samples, answer)} for answer in answers]


HOUR_OF = {"namespace": ".+", "run": ".+", "__range": "1h"}


def test_the_state_of_a_run_is_told_by_its_series_and_its_rayjob(tmp_path):
    def step(run):
        return f'ray_trainer_progress_ratio{{namespace="t", run="{run}", pod="{run}-head"}}'

    def job(run, status):
        return f'kuberay_job_deployment_status{{namespace="t", name="{run}", deployment_status="{status}"}}'

    series = {
        step("trains"): "0+0.01x60",
        step("done"): "0+0.125x8 stale",
        step("died"): "0+0.01x10 stale",
        step("stopped"): "0+0.01x10 stale",
        step("retried"): "0+0.01x10 stale",
        job("trains", "Running"): "1x60",
        job("done", "Complete"): "1x60",
        job("died", "Running"): "1x10 stale",
        job("died", "Failed"): "_x11 1x20 stale",  # and was deleted
        job("retried", "Retrying"): "1x60",
        job("new", ""): "1x60",
        job("held", "Suspended"): "1x60",
        job("refused", "ValidationFailed"): "1x60",
    }
    (states,) = evaluated(tmp_path, series, fill(state(MANY), HOUR_OF), 40)
    assert {run: STATES[number][0] for run, number in states.items()} == {
        "trains": "training",
        "done": "finished",
        "died": "failed",
        "stopped": "stopped early",
        "retried": "starting",
        "new": "starting",
        "held": "suspended",
        "refused": "failed",
    }
    (early,) = evaluated(tmp_path, series, fill(ended_early(MANY), HOUR_OF), 40)
    assert set(early) == {"died", "stopped"}


def test_what_a_number_rose_by_is_over_all_pods_of_a_run(tmp_path):
    # the head was lost after 30 minutes: the new one goes on from 1800
    series = {
        'ray_trainer_paid_worker_seconds{namespace="t", run="tea", pod="a"}': "0+60x30 stale",
        'ray_trainer_paid_worker_seconds{namespace="t", run="tea", pod="b"}': "_x31 1860+60x60",
        'ray_trainer_paid_worker_seconds{namespace="t", run="new", pod="c"}': "_x80 0+60x60",
    }
    (risen,) = evaluated(tmp_path, series, fill(rise("paid_worker_seconds", MANY, "1h"), HOUR_OF), 85)
    assert risen == {"tea": 60 * 59, "new": 60 * 5}  # the window is open at its begin


def test_a_new_attempt_is_marked_once_also_on_another_head(tmp_path):
    (attempts,) = [each for each in FILES["run"]["annotations"]["list"] if each["name"] == "Attempts"]
    series = {
        'ray_trainer_attempt{namespace="t", run="tea", pod="a"}': "1x10 2x10 stale",
        'ray_trainer_attempt{namespace="t", run="tea", pod="b"}': "_x25 3x10",
    }
    expression = fill(attempts["expr"], {"namespace": "t", "run": "tea"})
    marked = [minute for minute, runs in enumerate(evaluated(tmp_path, series, expression, *range(36))) if runs]
    assert marked == [11, 25]


def test_no_variable_is_left_and_the_groups_of_a_replacement_stay():
    assert fill('label_replace(x{run=~"$run"}, "a", "$1", "b", "(.+)")', {"run": "tea"}).count("$") == 1
    assert fill("$run ${run}_x $run_s", {"run": "tea", "run_s": "s"}) == "tea tea_x s"
    with pytest.raises(KeyError, match="nobody"):
        fill("$nobody", {})


def test_every_variable_is_used(board):
    text = " ".join(expression for _, expression, _ in questions(board))
    names = {variable["name"] for variable in board["templating"]["list"]} - {"datasource"}
    assert {name for name in names if not re.search(rf"\${name}\b", text)} == set()


def test_variables_are_all_the_first_or_what_is_given():
    def ask(expression, _):
        return [{"metric": {"run": run, "ray_io_cluster": f"{run}-1"}} for run in ("new", "old", "new")]

    assert variables(FILES["runs"], HOUR, ask, {})["run"] == ".+"
    assert variables(FILES["run"], HOUR, ask, {})["run"] == "new"
    assert variables(FILES["run"], HOUR, ask, {"run": "old"})["run"] == "old"
    assert variables(FILES["resources"], HOUR, ask, {})["cluster"] == "(new-1|old-1)"
    assert variables(FILES["run"], HOUR, lambda *_: [], {})["run"] == ""


def test_the_intervals_are_those_of_grafana():
    assert HOUR.variables() == {"__range": "3600s", "__range_s": "3600", "__interval": "15s", "__rate_interval": "60s"}
    assert Range(0, 30 * 86400).variables()["__rate_interval"] == "6495s"


def test_marks_of_a_picture_are_the_stretches_in_which_a_query_has_a_value():
    stretches = list(_marks([15, 30, 45, 120, 180, 195], 15))
    assert [(each["begin"], each["end"]) for each in stretches] == [(15e3, 45e3), (120e3, 120e3), (180e3, 195e3)]


def test_times_of_a_picture_are_utc_or_seconds(monkeypatch):
    for given in ("1795766400", "2026-11-27T08:00", "2026-11-27T08:00Z", "2026-11-27T09:00+01:00"):
        monkeypatch.setenv("FROM", given)
        assert _moment("FROM", 0.0) == 1795766400
    monkeypatch.setenv("FROM", "")
    assert _moment("FROM", 7.0) == 7.0
    monkeypatch.setenv("FROM", "noon")
    with pytest.raises(ValueError, match=r"FROM: 'noon' is no time; write 2026-11-27T08:00"):
        _moment("FROM", 0.0)


# --- Links ------------------------------------------------------------------------------------------------------------


def test_boards_lead_to_each_other_with_the_run_and_the_time(board):
    (link,) = board["links"]
    assert (link["type"], link["tags"]) == ("dashboards", ["fashion-mnist-on-ray"])
    assert link["includeVars"]
    assert link["keepTime"]


def test_a_runs_name_leads_to_its_board():
    links = re.findall(r"/d/([\w-]+)\?[^\"]*", json.dumps(FILES))
    assert "trainer-run" in links
    assert set(links) <= {board["uid"] for board in FILES.values()}
    variables_there = {each["name"] for each in FILES["run"]["templating"]["list"]}
    for address in re.findall(r"/d/trainer-run\?([^\"]*)", json.dumps(FILES)):
        assert set(re.findall(r"var-(\w+)=", address)) <= variables_there
        assert "${__url_time_range}" in address


def test_a_link_of_a_table_uses_columns_that_the_table_has(board):
    for panel in panels(board):
        columns = set(panel.get("transformations", [{}])[-1].get("options", {}).get("renameByName", {}).values())
        assert set(re.findall(r"__data\.fields\.(\w+)", json.dumps(panel))) <= columns, panel["title"]
        if panel["type"] == "table":
            looked_at = {each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]} - {".*"}
            assert looked_at <= columns, panel["title"]


# --- The chart --------------------------------------------------------------------------------------------------------


def config_maps(dashboards):
    found = render({"dashboards": dashboards}, "monitoring")
    return {m["metadata"]["name"]: m for m in found if m["kind"] == "ConfigMap"}


def content(config_map):
    ((name, text),) = config_map["data"].items()
    assert name.startswith("training-")
    assert name.endswith(".json")  # a sidecar reads no other file
    return json.loads(text)


def test_each_board_is_a_config_map_that_the_sidecar_finds():
    found = config_maps({})
    assert set(found) == {f"monitoring-dashboard-{name}" for name in NAMES}
    for name in NAMES:
        config_map = found[f"monitoring-dashboard-{name}"]
        assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert config_map["metadata"]["annotations"] == {"grafana_folder": "Training"}
        assert content(config_map) == FILES[name]
        assert len(json.dumps(config_map)) < 1024 * 1024 / 4  # etcd takes a MiB


def test_the_platforms_grafana_looks_for_what_the_chart_sets():
    stack = yaml.safe_load((ROOT / "k8s" / "platform" / "kube-prometheus-stack.yaml").read_text())
    sidecar = stack["grafana"]["sidecar"]["dashboards"]
    assert {sidecar["label"]: sidecar["labelValue"]} == DEFAULTS["labels"]
    assert sidecar["folderAnnotation"] == DEFAULTS["folderAnnotation"]
    assert sidecar["provider"]["foldersFromFilesStructure"] is True
    assert sidecar["searchNamespace"] == "ALL"


def test_every_board_can_be_left_out():
    assert config_maps({"enabled": False}) == {}
    for name in NAMES:  # the schema knows them all
        left = config_maps({"disabled": [name]})
        assert set(left) == {f"monitoring-dashboard-{other}" for other in NAMES if other != name}


def test_labels_folder_and_namespace_are_the_values():
    values = {"labels": {"find": "yes", "grafana_dashboard": None}, "folder": "", "annotations": {"team": "1"}}
    for config_map in config_maps({**values, "namespace": "grafana"}).values():
        meta = config_map["metadata"]
        assert meta["namespace"] == "grafana"
        assert meta["labels"]["find"] == "yes"
        assert "grafana_dashboard" not in meta["labels"]
        assert meta["annotations"] == {"team": "1"}
    assert "annotations" not in config_maps({"folder": ""})["monitoring-dashboard-run"]["metadata"]


def test_boards_open_with_the_data_source_of_the_values():
    for config_map in config_maps({"datasource": "prom-1"}).values():
        first = content(config_map)["templating"]["list"][0]
        assert first["current"] == {"selected": False, "text": "prom-1", "value": "prom-1"}
    assert (
        content(config_maps({})["monitoring-dashboard-run"])["templating"]["list"][0]["current"]["value"] == "default"
    )


def test_links_of_the_values_come_after_those_of_the_boards():
    logs = {"title": "Logs", "url": "https://logs.example.org/?run=${run}&from=1"}
    for config_map in config_maps({"links": [logs]}).values():
        between, own = content(config_map)["links"]
        assert between["type"] == "dashboards"
        assert {key: own[key] for key in logs} == logs
        assert own["type"] == "link"


@pytest.mark.parametrize(
    "values",
    [
        {"enable": True},
        {"disabled": ["runes"]},
        {"links": [{"title": "x", "url": "javascript:1"}]},
    ],
    ids=str,
)
def test_a_typo_in_the_values_of_dashboards_is_refused(values, refused):
    assert next(iter(values)) in refused({"dashboards": values}, "monitoring")
