"""Check the alerts and recording rules of helm/monitoring with pint: `make pint`.

With PROMETHEUS, the address of one that has read runs, also that what each rule asks for was there within a day.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tools.manifests import ROOT, render

TOOLS = ROOT / ".tools"
PINT = TOOLS / "bin" / "pint"
# What a healthy cluster without GPUs and prices lacks, as the first failure makes the series: no reason to fail.
ABSENT = (
    "kuberay_job_execution_duration_seconds",
    "ray_memory_manager_worker_eviction_total",
    "ray_node_gpus_utilization",
    "ray_node_manager_unexpected_worker_failure_total",
    "ray_trainer_budget",
    "ray_trainer_cost",
    "training:job_retries:count",
)
CONFIG = """\
parser {{
  include = ["{rules}"]
}}
check "promql/series" {{
  lookbackRange = "1d"
  ignoreMetrics = [{absent}]
  # failed, suspended and unnamed states are not there while all is well
  ignoreLabelsValue = {{
    "kuberay_job_execution_duration_seconds" = ["job_deployment_status"]
    "training:job_status:max"                = ["deployment_status"]
    "training:run_seconds:max"               = ["part"]
  }}
}}
"""
PROMETHEUS = """\
prometheus "live" {{
  uri     = "{url}"
  timeout = "30s"
}}
"""


class Readable(yaml.SafeDumper):
    """Writes text of several lines as it is, so that pint can point at its parts."""


Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def main() -> None:
    """Write the rules as Prometheus reads them, and end with pint's exit code."""
    rules = write(TOOLS / "rules.yaml")
    sys.exit(lint(rules, os.environ.get("PROMETHEUS", "")))


def write(file: Path) -> Path:
    """Write all rules of the chart, with its default values, as one file for Prometheus."""
    manifests = yaml.safe_load_all(render(ROOT / "helm" / "monitoring", {}, "monitoring"))
    made = [each for each in manifests if each and each["kind"] == "PrometheusRule"]
    groups = [group for manifest in made for group in manifest["spec"]["groups"]]
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.dump({"groups": groups}, Dumper=Readable, sort_keys=False, width=1000))
    return file


def lint(rules: Path, prometheus: str = "") -> int:
    """Run pint on a file of rules, offline unless it is given the address of a Prometheus; return its exit code."""
    absent = ", ".join(f'"{name}"' for name in ABSENT)
    config = rules.with_suffix(".hcl")
    config.write_text(
        CONFIG.format(rules=rules, absent=absent) + (PROMETHEUS.format(url=prometheus) if prometheus else "")
    )
    command = [str(PINT), "--no-color", "--log-level", "ERROR", "--config", str(config)]
    # a metric of ABSENT that is not there is a warning
    command += ["lint", "--fail-on", "bug"] if prometheus else ["--offline", "lint", "--fail-on", "warning"]
    return subprocess.run([*command, str(rules)], check=False).returncode  # noqa: S603 # our own build, and the repository's own paths


if __name__ == "__main__":
    main()
