"""The rules of the chart `monitoring`: each alert fires when it must, does not when it must not, and ends."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from support.charts import ROOT, render

from trainer.observe.metrics import METRICS

CHART = ROOT / "helm" / "monitoring"
CASES = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())["alerts"]
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the rules as Prometheus reads them."""
    folder = tmp_path_factory.mktemp("rules")
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": rules()}))
    return folder


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


def case(written):
    """A case of rules/*.yaml as a test of promtool."""
    return {
        "name": written["name"],
        "interval": written.get("every", "1m"),
        "input_series": [{"series": series, "values": values} for series, values in written["series"].items()],
        "promql_expr_test": [
            expectation(name, moment, labels)
            for name, moments in written["alerts"].items()
            for moment, labels in moments.items()
        ],
    }


def test_promtool_finds_nothing_wrong_with_the_rules(folder):
    assert "SUCCESS" in promtool("check", "rules", "rules.yaml", cwd=folder)


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_alerts_fire_when_they_must_and_at_no_other_time(file, folder):
    tests = [case(written) for written in yaml.safe_load(file.read_text())]
    for interval in {test["interval"] for test in tests}:
        chosen = [test for test in tests if test["interval"] == interval]
        content = {"rule_files": ["rules.yaml"], "evaluation_interval": interval, "tests": chosen}
        (folder / file.name).write_text(yaml.safe_dump(content))
        promtool("test", "rules", file.name, cwd=folder)


def test_each_alert_has_a_case_in_which_it_begins_and_ends():
    def minutes(moment):
        return int(moment.removesuffix("m"))

    proven = set()
    for file in CASES:
        for written in yaml.safe_load(file.read_text()):
            for name, moments in written["alerts"].items():
                fires = [minutes(moment) for moment, labels in moments.items() if labels]
                quiet = [minutes(moment) for moment, labels in moments.items() if not labels]
                if fires and quiet and min(quiet) < min(fires) and max(quiet) > max(fires):
                    proven.add(name)
    assert proven == set(alerts())
