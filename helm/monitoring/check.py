"""Ask a Prometheus whether it reads what this chart has installed: `helm test` runs this in a pod, Python alone.

Each line is a thing that was checked. What is wrong ends with what to do, and the exit code is 1.
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

KUBERAY = 'count(controller_runtime_active_workers{controller="rayjob"})'
RUNS = "count by (namespace, run) (last_over_time(ray_trainer_step[1d]))"
EVERY_S = 5.0


class WrongError(Exception):
    """Something is not as it should be: what, and what to do."""

    def __init__(self, problem, fix):
        super().__init__(f"{problem} → {fix}")


class Prometheus:
    """The HTTP API of a Prometheus, or of what answers like one."""

    def __init__(self, url):
        self._url = url.rstrip("/")

    def get(self, path, **parameters):
        """Return the data of an answer."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except (OSError, ValueError, KeyError) as error:
            raise WrongError(
                f"Prometheus: {self._url}/api/v1/{path} does not answer ({error})",
                "set tests.prometheusUrl; a network policy may keep this pod from it",
            ) from None


def check_monitors(prometheus, monitors):
    """Check that Prometheus has read each monitor."""
    pools = prometheus.get("scrape_pools")["scrapePools"]
    missing = [monitor for monitor in monitors if not any(pool.startswith(f"{monitor}/") for pool in pools)]
    if missing:
        raise WrongError(
            f"monitors: Prometheus does not read {', '.join(missing)}",
            "set `labels` to what podMonitorSelector asks for; podMonitorNamespaceSelector must allow the namespace",
        )
    return f"monitors: {', '.join(monitors)}"


def check_targets(prometheus, monitors):
    """Check that every pod that the monitors find answers."""
    active = prometheus.get("targets", state="active")["activeTargets"]
    ours = [target for target in active if target["scrapePool"].rsplit("/", 1)[0] in monitors]
    down = [target for target in ours if target["health"] == "down"]
    if down:
        labels, error = down[0]["labels"], down[0]["lastError"]
        raise WrongError(
            f"targets: {len(down)} of {len(ours)} are down, the first is pod {labels.get('pod')} in namespace "
            f"{labels.get('namespace')}, port {labels.get('endpoint')}: {error}",
            "a time-out means a network policy: network.prometheus of helm/training must name this Prometheus' pods",
        )
    return f"targets: {len(ours)} answer" if ours else "targets: none, as no run has pods now"


def check_rules(prometheus, groups):
    """Check that Prometheus evaluates each group of rules, without an error."""
    found = {group["name"]: group["rules"] for group in prometheus.get("rules")["groups"]}
    missing = [group for group in groups if group not in found]
    if missing:
        raise WrongError(
            f"rules: Prometheus does not evaluate {', '.join(missing)}",
            "set alerts.ruleLabels to what its ruleSelector asks for; ruleNamespaceSelector must allow the namespace",
        )
    broken = [rule for group in groups for rule in found[group] if rule.get("health") == "err"]
    if broken:
        raise WrongError(
            f"rules: {broken[0]['name']} fails: {broken[0].get('lastError')}",
            "compare Prometheus' version with the one that this chart is tested with",
        )
    return f"rules: {sum(len(found[group]) for group in groups)} in {', '.join(groups)}"


def check_operator(prometheus):
    """Check that there are metrics of the KubeRay operator: the alerts about jobs stand on them."""
    if not prometheus.get("query", query=KUBERAY)["result"]:
        raise WrongError(
            "operator: no metrics of the KubeRay operator",
            "set metrics.serviceMonitor.enabled in its values, or leave KubeRayAbsent out by alerts.disabled",
        )
    return "operator: its metrics are there"


def check_runs(prometheus):
    """Say which runs Prometheus has seen; that there was none is not wrong."""
    found = prometheus.get("query", query=RUNS)["result"]
    runs = sorted(f"{each['metric'].get('namespace')}/{each['metric'].get('run')}" for each in found)
    return f"runs within a day: {', '.join(runs) or 'none'}"


def main(arguments=None):
    """Check all, again until it is good or the time is over; return the exit code."""
    parser = argparse.ArgumentParser(description="Ask a Prometheus whether it reads what this chart has installed.")
    parser.add_argument("url")
    parser.add_argument("--monitor", action="append", default=[], help="podMonitor/NAMESPACE/NAME")
    parser.add_argument("--group", action="append", default=[], help="name of a group of rules")
    parser.add_argument("--operator", action="store_true", help="the operator's metrics must be there")
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="how long to try: new monitors are read after minutes"
    )
    given = parser.parse_args(arguments)
    prometheus = Prometheus(given.url)
    checks = [lambda: check_monitors(prometheus, given.monitor), lambda: check_targets(prometheus, given.monitor)]
    if given.group:
        checks.append(lambda: check_rules(prometheus, given.group))
    if given.operator:
        checks.append(lambda: check_operator(prometheus))
    checks.append(lambda: check_runs(prometheus))
    until = time.monotonic() + given.seconds
    while True:
        done = [run(check) for check in checks]
        wrong = any(is_wrong for _, is_wrong in done)
        if not wrong or time.monotonic() > until:
            print("\n".join(line for line, _ in done))
            return 1 if wrong else 0
        time.sleep(EVERY_S)


def run(check):
    """Return what a check says, and whether it found something wrong."""
    try:
        return f"ok     {check()}", False
    except WrongError as error:
        return f"wrong  {error}", True


if __name__ == "__main__":
    sys.exit(main())
