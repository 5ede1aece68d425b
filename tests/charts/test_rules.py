"""The rules of the chart `monitoring`: each alert fires when it must, does not when it must not, and ends."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from support.charts import ROOT, render
from typer.main import get_command

from trainer.cli.main import app
from trainer.observe.metrics import METRICS

CHART = ROOT / "helm" / "monitoring"
CASES = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
RUNBOOK = ROOT / "docs" / "runbook.md"


def rules(values=None):
    """The groups of all PrometheusRules that these values make."""
    made = [m for m in render({"alerts": values or {}}, "monitoring") if m["kind"] == "PrometheusRule"]
    return [group for manifest in made for group in manifest["spec"]["groups"]]


def alerts(values=None):
    """The alerts of these values, by name."""
    return {rule["alert"]: rule for group in rules(values) for rule in group["rules"] if "alert" in rule}


def promtool(*arguments, cwd):
    """What promtool prints; it must be content."""
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed: it comes with Prometheus")
    done = subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expectation(name, moment, labels):
    """Which alerts of a name fire at a moment, as promtool takes it: an alert that fires is a series."""
    shown = [{"alertname": name, "alertstate": "firing", **each} for each in labels]
    samples = [f"ALERTS{{{','.join(f'{key}={json.dumps(value)}' for key, value in each.items())}}}" for each in shown]
    chosen = "" if name == "any" else f',alertname="{name}"'
    return {
        "expr": f'ALERTS{{alertstate="firing"{chosen}}}',
        "eval_time": moment,
        "exp_samples": [{"labels": sample, "value": 1} for sample in samples],
    }


def recorded(written):
    """All series that the recording rules make in a case, five minutes after its start."""
    samples = [{"labels": series, "value": value} for series, value in written["recorded"].items()]
    return {"expr": '{__name__=~"training:.+"}', "eval_time": "5m", "exp_samples": samples}


def case(written):
    """A case of rules/*.yaml as a test of promtool."""
    if "recorded" in written:
        expected = [recorded(written)]
    else:
        expected = [
            expectation(name, moment, labels)
            for name, moments in written["alerts"].items()
            for moment, labels in moments.items()
        ]
    return {
        "name": written["name"],
        "interval": written.get("every", "1m"),
        "input_series": [{"series": series, "values": values} for series, values in written["series"].items()],
        "promql_expr_test": expected,
    }


def test_promtool_finds_nothing_wrong_with_the_rules(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": rules()}))
    assert "SUCCESS" in promtool("check", "rules", "rules.yaml", cwd=tmp_path)


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_alerts_fire_when_they_must_and_at_no_other_time(file, tmp_path):
    # of the other files' rules only those that are recorded: promtool would evaluate all of them every minute
    needed = [group for group in rules() if group["name"] in ("training.recorded", f"training.{file.stem}")]
    content = {"groups": rules() if file.stem == "well" else needed}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(content))
    tests = [case(written) for written in yaml.safe_load(file.read_text())]
    for interval in {test["interval"] for test in tests}:
        chosen = [test for test in tests if test["interval"] == interval]
        content = {"rule_files": ["rules.yaml"], "evaluation_interval": interval, "tests": chosen}
        (tmp_path / file.name).write_text(yaml.safe_dump(content))
        promtool("test", "rules", file.name, cwd=tmp_path)


def test_each_alert_has_a_case_in_which_it_begins_and_ends():
    def minutes(moment):
        return int(moment.removesuffix("m"))

    proven = set()
    for file in CASES:
        for written in yaml.safe_load(file.read_text()):
            for name, moments in written.get("alerts", {}).items():
                fires = [minutes(moment) for moment, labels in moments.items() if labels]
                quiet = [minutes(moment) for moment, labels in moments.items() if not labels]
                if fires and quiet and min(quiet) < min(fires) and max(quiet) > max(fires):
                    proven.add(name)
    assert proven == set(alerts())


def test_each_recording_rule_has_a_case():
    cases = [written for file in CASES for written in yaml.safe_load(file.read_text())]
    series = [series for written in cases for series in written.get("recorded", {})]
    assert {each.split("{")[0] for each in series} == {
        rule["record"] for group in rules() for rule in group["rules"] if "record" in rule
    }


def shown_by():
    """For each alert, the labels of those that fire in its cases."""
    labels = {}
    for file in CASES:
        for written in yaml.safe_load(file.read_text()):
            for name, moments in written.get("alerts", {}).items():
                labels.setdefault(name, []).extend(set(each) for firing in moments.values() for each in firing)
    return labels


def test_each_alert_says_what_where_how_bad_and_what_to_do():
    labels = shown_by()
    for name, rule in alerts().items():
        texts = rule["annotations"]
        assert set(texts) == {"summary", "description", "runbook_url"}, name
        assert texts["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("info", "warning", "critical"), name
        said = texts["summary"] + texts["description"]
        assert "{{ $labels.namespace }}" in said or name.startswith("KubeRay"), name
        assert "$labels.run" in said or name.startswith("KubeRay"), name
        # a label that some of them lack is asked for first
        certain = set.intersection(*labels[name])
        optional = set(re.findall(r"{{ with \$labels\.(\w+) }}", said))
        named = set(re.findall(r"\$labels\.(\w+)", said))
        assert named - optional <= certain | {each for each in named if "{{ else }}{{ $labels." + each in said}, name


def test_no_rule_has_a_threshold_that_no_value_sets():
    assert "${" not in json.dumps(rules())


def test_no_rule_needs_kube_state_metrics_or_a_metric_that_no_run_has():
    expressions = " ".join(rule["expr"] for group in rules() for rule in group["rules"])
    assert re.findall(r"\bkube_\w+", expressions) == []
    assert set(re.findall(r"\bray_trainer_\w+", expressions)) <= {metric.exported for metric in METRICS}
    recorded = {rule["record"] for group in rules() for rule in group["rules"] if "record" in rule}
    assert set(re.findall(r"\btraining:[\w:]+", expressions)) <= recorded


def test_no_rule_mixes_runs_of_two_namespaces_or_kubernetes_clusters():
    for group in rules({"clusterLabel": "k8s"}):
        for rule in group["rules"]:
            clauses = re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"])
            wanted = "k8s, controller" if rule.get("alert") == "KubeRayReconcileErrors" else "k8s, namespace"
            assert [clause for clause in clauses if not clause.startswith(wanted)] == [], rule
            assert clauses or rule.get("alert") in ("KubeRayAbsent", "TrainingSlow") or "record" in rule, rule


def test_alerts_can_be_left_out_changed_and_labelled():
    values = {"disabled": ["TrainingSlow"], "labels": {"team": "ml"}, "clusterLabel": "k8s"}
    values["override"] = {"TrainingStalled": {"for": "1h", "severity": "critical"}, "KubeRayAbsent": {"for": "1m"}}
    changed, before = alerts(values), alerts()
    assert set(before) - set(changed) == {"TrainingSlow"}
    assert (changed["TrainingStalled"]["for"], changed["TrainingStalled"]["labels"]["severity"]) == ("1h", "critical")
    assert (changed["KubeRayAbsent"]["for"], changed["KubeRayAbsent"]["labels"]["severity"]) == ("1m", "critical")
    assert {rule["labels"]["team"] for rule in changed.values()} == {"ml"}
    assert "by (k8s, namespace, run)" in changed["TrainingStalled"]["expr"]
    assert rules({"enabled": False}) == []


def test_a_file_whose_alerts_are_all_left_out_makes_no_rules():
    names = [group["name"] for group in rules({"disabled": ["KubeRayAbsent", "KubeRayReconcileErrors"]})]
    assert names == ["training.job", "training.ray", "training.recorded", "training.run"]


def test_rules_can_be_selected_by_labels_of_their_own():
    made = render({"labels": {"release": "prometheus"}, "alerts": {"ruleLabels": {"role": "rules"}}}, "monitoring")
    found = [manifest["metadata"]["labels"] for manifest in made if manifest["kind"] == "PrometheusRule"]
    assert {(labels["release"], labels["role"]) for labels in found} == {("prometheus", "rules")}
    assert all("role" not in m["metadata"]["labels"] for m in made if m["kind"] == "PodMonitor")


def test_each_alert_has_its_heading_in_the_runbook_and_each_heading_its_alert():
    chapter = RUNBOOK.read_text().split("\n## Alerts\n")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^### (\w+)$", chapter, re.MULTILINE)) == sorted(alerts())
    sections = re.split(r"^### ", chapter, flags=re.MULTILINE)[1:]
    without_command = [text.split()[0] for text in sections if "```sh" not in text and "```promql" not in text]
    assert without_command == []


def test_the_runbooks_commands_are_what_the_trainer_takes():
    commands = get_command(app).commands
    lines = re.findall(r"^trainer .*", RUNBOOK.read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        _, name, *words = shlex.split(line.split("|")[0], comments=True)
        commands[name].make_context(name, words)  # refuses what does not exist
