"""What `make deploy` checks before it does anything. No cluster here: tests/cluster runs it for real."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml
from support.charts import ENVIRONMENTS, ROOT

# All that the script's own lines need.
SHELL = ("bash", "env", "dirname", "date", "sleep")
# Its tools on other systems: those of busybox (Alpine, embedded) and toybox (Android), and a BSD's as far as that has
# options of its own. A folder of links takes the place of the system's.
BOXES = ("system", "busybox", "toybox")
# Words of bash 4 and 5, which the 3.2 of macOS does not know, and options that only GNU's tools have.
NEWER_THAN_BASH_3 = {
    "mapfile": r"\b(mapfile|readarray|coproc)\b",
    "declare -A": r"\b(declare|local|typeset) -[a-zA-Z]*[Ang]",
    "case": r"\$\{\w+(\[[^]]*\])?(,|\^)",
    "transformation": r"\$\{\w+@",
    "redirection": r"&>>|\|&",
    "wait -n": r"\bwait -n\b",
    "negative index": r"\[-\d+\]|\$\{\w+: -|\$\{\w+:[^}:]*:-\d",
    "test -v": r"\[\[? -v ",
    "printf time": r"%\([^)]*\)T",
    "empty array": r"(?<!\+)\"\$\{(?!source\[)\w+\[@\]\}\"",  # unset under set -u; `source` is never empty
}
ONLY_GNU = {
    "xargs -r": r"\bxargs -\w*[rd]",
    "sed": r"\bsed (-\w+ )*-(i|r|z)\b",
    "date": r"\bdate (-d|--|-I)",
    "readlink": r"\breadlink -|\brealpath\b",
    "sort": r"\bsort -\w*[VhzR]",
    "base64": r"\bbase64 (-w|--)",
    "grep": r"\bgrep -\w*[Pz]",
    "stat": r"\bstat -c",
    "head": r"\bhead -(c|n -)",
    "paste": r"\bpaste -sd \S+$",
    "others": r"(?<![-\w])(timeout|nproc|tac|seq|shuf|numfmt|truncate)\s",
}
SCRIPTS = ("k8s/deploy.sh", ".ci/run", "tools/pictures.sh", "Makefile")


@pytest.fixture(params=BOXES)
def box(request):
    """What the system's tools are replaced by."""
    if request.param != "system" and not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture
def path(tmp_path, box):
    """A folder with what the script's own lines need, and no tool of the cluster."""
    applets = []
    if box != "system":
        applets = subprocess.run(
            [box, "--list"] if box == "busybox" else [box], capture_output=True, text=True, check=True
        ).stdout.split()
    for name in SHELL:
        of_box = name in applets and name not in ("bash", "env")
        (tmp_path / name).symlink_to(shutil.which(box if of_box else name))
    (tmp_path / "python3").symlink_to(sys.executable)
    return tmp_path


def pretend(path, name, answers="exit 0"):
    """A stand-in for a tool that is there."""
    (path / name).write_text(f"#!/bin/bash\n{answers}\n")
    (path / name).chmod(0o755)


def deploy(path, *steps, script=ROOT / "k8s" / "deploy.sh", **environment):
    environment = {"PATH": str(path), "IMAGE": "image:1", **environment}
    command = ["bash", str(script), *steps]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, input="")


@pytest.mark.parametrize("missing", ["kubectl", "helm", "docker", "kind"])
def test_a_tool_that_is_missing_is_named_with_where_to_get_it(path, missing):
    for tool in ("kubectl", "helm", "docker", "kind"):
        if tool != missing:
            pretend(path, tool)
    done = deploy(path, "check-tools")
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {missing} is not installed; get it from https://")


def test_a_docker_that_does_not_answer_is_told_from_one_that_is_missing(path):
    for tool in ("kubectl", "helm", "kind"):
        pretend(path, tool)
    pretend(path, "docker", "exit 1")
    done = deploy(path, "check-tools")
    assert (done.returncode, "Docker is installed but not running" in done.stderr) == (2, True)


def test_an_environment_that_is_none_is_refused_with_those_there_are(path):
    for tool in ("kubectl", "helm"):
        pretend(path, tool)
    done = deploy(path, "check-tools", ENV="moon")
    assert done.returncode == 2
    assert f"k8s/moon/training.yaml does not exist; ENV is one of {' '.join(ENVIRONMENTS)}" in done.stderr


CLOUDS = [name for name in ENVIRONMENTS if name != "kind"]


@pytest.mark.parametrize("environment", CLOUDS)
def test_values_that_still_hold_placeholders_are_refused_by_name(path, environment):
    for tool in ("kubectl", "helm"):
        pretend(path, tool, 'echo "$0 $*" >> "$CALLS"')
    done = deploy(path, "install-charts", ENV=environment, CONTEXT="cloud", CALLS=str(path / "calls"))
    assert done.returncode == 2
    assert f"k8s/{environment}/training.yaml still has placeholders: <" in done.stderr
    assert not (path / "calls").exists()


def test_a_step_that_is_none_is_refused(path):
    for tool in ("kubectl", "helm", "docker", "kind"):
        pretend(path, tool)
    done = deploy(path, "lunch")
    assert (done.returncode, "there is no step lunch" in done.stderr) == (2, True)


def test_every_command_goes_to_the_context_that_was_asked_for_and_no_other(path):
    for tool in ("kubectl", "helm"):
        pretend(path, tool, 'echo "$*" >> "$CALLS"')
    calls = path / "calls"
    deploy(path, "install-platform", "install-charts", ENV="kind", CONTEXT="other", CALLS=str(calls))
    assert calls.read_text().count("\n") >= 6
    assert [line for line in calls.read_text().splitlines() if "context other" not in line] == []


def test_placeholders_are_named_once_and_comments_are_not_read(path):
    for tool in ("kubectl", "helm"):
        pretend(path, tool)
    done = deploy(path, "install-charts", ENV="aks", CONTEXT="cloud")
    assert "placeholders: <REGISTRY> <CONTAINER> <ACCOUNT> <CLIENT-ID>; replace them (docs/clouds.md)" in done.stderr


def test_values_without_placeholders_are_installed(path, tmp_path_factory):
    for tool in ("kubectl", "helm"):
        pretend(path, tool, 'echo "$0 $*" >> "$CALLS"')
    here = copy_of_k8s(tmp_path_factory.mktemp("a checkout with spaces") / "it is")
    values = here / "k8s" / "gke" / "training.yaml"
    values.write_text(
        re.sub(r"(?m)^( *[^#\n]*)<[A-Z-]+>", r"\1x", re.sub(r"<[A-Z-]+>", "x", values.read_text())) + "# <X>"
    )
    calls = path / "calls"
    done = deploy(path, "install-charts", script=here / "k8s" / "deploy.sh", ENV="gke", CONTEXT="c", CALLS=str(calls))
    assert (done.returncode, done.stderr) == (0, "")
    assert "helm upgrade --install --kube-context c" in calls.read_text()


def test_openshift_keeps_its_prometheus_with_monitors_beside_the_pods(path, tmp_path_factory):
    for tool in ("kubectl", "helm"):
        pretend(path, tool, 'echo "$*" >> "$CALLS"')
    here = copy_of_k8s(tmp_path_factory.mktemp("openshift"))
    values = here / "k8s" / "openshift" / "training.yaml"
    values.write_text(re.sub(r"<[A-Z-]+>", "x", values.read_text()))
    calls = path / "calls"
    steps = ("install-platform", "install-charts", "uninstall")
    script = here / "k8s" / "deploy.sh"
    done = deploy(path, *steps, script=script, ENV="openshift", CONTEXT="c", CALLS=str(calls))
    assert (done.returncode, done.stderr) == (0, "")
    helm = [line for line in calls.read_text().splitlines() if line.startswith(("upgrade", "uninstall"))]
    assert [line for line in helm if "prometheus" in line or "gpu-operator" in line] == []
    monitors = [line for line in helm if " monitoring" in line]
    assert len(monitors) == 3
    assert all("--namespace training" in line for line in monitors)


def copy_of_k8s(folder):
    """A checkout's scripts and values elsewhere."""
    shutil.copytree(ROOT / "k8s", folder / "k8s")
    return folder


@pytest.mark.parametrize("broken", ["grep", "sed", "paste", "tr", "sort", "awk", "date", "basename", "xargs", "head"])
def test_a_broken_tool_lets_no_placeholder_through(path, broken):
    for tool in ("kubectl", "helm"):
        pretend(path, tool, 'echo "$0 $*" >> "$CALLS"')
    (path / broken).unlink(missing_ok=True)
    pretend(path, broken, "exit 1")
    done = deploy(path, "install-charts", ENV="gke", CONTEXT="cloud", CALLS=str(path / "calls"))
    assert done.returncode == 2
    assert "still has placeholders: <REGION> <PROJECT> <BUCKET>" in done.stderr
    assert not (path / "calls").exists()


@pytest.mark.parametrize(
    ("tool", "answers", "waited"),
    [
        ("kubectl", "exit 1", "an answer to kubectl --context c -n monitoring get deployments,statefulsets"),
        ("kubectl", "echo '{'", "to read the answer to kubectl -n monitoring get deployments,statefulsets"),
        ("python3", "exit 1", "to read the answer to kubectl -n monitoring get deployments,statefulsets"),
    ],
    ids=["kubectl", "words", "python"],
)
def test_what_cannot_be_asked_is_not_ready(path, tool, answers, waited):
    for each in ("kubectl", "helm"):
        pretend(path, each, "echo '{\"items\": []}'")
    (path / tool).unlink()
    pretend(path, tool, answers)
    done = deploy(path, "wait-ready", CONTEXT="c", PATIENCE_S="0")
    assert done.returncode == 2
    assert "Error: not ready after 0 s: " in done.stderr
    assert waited in done.stderr
    assert "ready. Next" not in done.stdout


def test_what_is_ready_is_said_with_what_to_do_next(path):
    pretend(path, "helm")
    pretend(path, "kubectl", "[[ $* != *--raw* ]] && echo '{\"items\": []}'")  # who may not ask Prometheus
    done = deploy(path, "wait-ready", ENV="gke", CONTEXT="c", PATIENCE_S="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "trainer submit --name tea --context c --namespace training" in done.stdout
    assert not [line for line in done.stdout.splitlines() if line != line.rstrip()]


def test_a_team_is_shown_commands_for_its_own_namespace(path):
    pretend(path, "helm")
    pretend(path, "kubectl", "[[ $* != *--raw* ]] && echo '{\"items\": []}'")
    done = deploy(path, "wait-ready", ENV="gke", CONTEXT="c", PATIENCE_S="0", NAMESPACE="team-b")
    assert "trainer submit --name tea --context c --namespace team-b" in done.stdout
    assert "make grafana ENV=gke CONTEXT=c NAMESPACE=team-b" in done.stdout
    assert "fashion-mnist" not in done.stdout  # k8s/rayjob.yaml is for the namespace training


LISTS_A_GRAFANA = """case "$*" in
  *"get services"*) echo "tools grafana-1"; echo "other grafana-2" ;;
  *"get secret grafana-admin"*) exit 1 ;;
  *rayjobs*) echo "tea 2026-11-27T07:00:00Z" ;;
esac
echo "$*" >> "$CALLS" """


def test_the_ports_of_grafana_and_prometheus_are_forwarded(path):
    pretend(path, "helm")
    pretend(path, "kubectl", LISTS_A_GRAFANA)
    calls = path / "calls"
    done = deploy(path, "grafana", "prometheus", ENV="gke", CONTEXT="c", CALLS=str(calls))
    assert (done.returncode, done.stderr) == (0, "")
    assert "http://localhost:3000/d/trainer-runs " in done.stdout
    assert "http://localhost:3000/d/trainer-run?var-run=tea&from=1795762800000&to=now " in done.stdout
    assert "kubectl --context c -n tools get secret grafana-1 -o" in done.stdout
    assert "http://localhost:9090" in done.stdout
    assert 'ray_trainer_test_accuracy{run="tea"}' in done.stdout
    forwarded = [line.split(" port-forward ")[1] for line in calls.read_text().splitlines() if "port-forward" in line]
    assert forwarded == ["service/grafana-1 3000:80", "service/prometheus-operated 9090:9090"]


def test_other_ports_can_be_named_and_one_that_is_taken_is_explained(path):
    pretend(path, "helm")
    pretend(path, "kubectl", LISTS_A_GRAFANA + '\n[[ "$*" != *port-forward* ]]')
    done = deploy(path, "grafana", ENV="gke", CONTEXT="c", PORT="3001", CALLS=str(path / "calls"))
    assert done.returncode == 2
    assert "http://localhost:3001/d/trainer-runs" in done.stdout
    assert done.stderr == "Error: the connection to grafana-1 ended; if port 3001 is taken, name another: PORT=13001.\n"


@pytest.mark.parametrize(
    ("step", "answers", "said"),
    [
        ("grafana", "exit 0", "c has no Grafana; import helm/monitoring/dashboards/*.json into yours"),
        ("grafana", "exit 1", "the services of c cannot be listed"),
        ("prometheus", "exit 1", "c has no service prometheus-operated in the namespace monitoring; install it"),
    ],
)
def test_a_grafana_or_prometheus_that_is_absent_is_said_in_one_line(path, step, answers, said):
    pretend(path, "helm")
    pretend(path, "kubectl", answers)
    done = deploy(path, step, ENV="gke", CONTEXT="c")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {said}")
    assert done.stderr.count("\n") == 1


def test_the_prometheus_of_openshift_is_that_of_users(path):
    pretend(path, "helm")
    pretend(path, "kubectl", 'echo "$*" >> "$CALLS"')
    deploy(path, "prometheus", ENV="openshift", CONTEXT="c", CALLS=str(path / "calls"))
    assert "-n openshift-user-workload-monitoring port-forward" in (path / "calls").read_text()


@pytest.mark.parametrize("namespace", ["Team", "-b", "a.b", "monitoring", "kube-system", "default"])
def test_a_namespace_that_cannot_be_a_teams_is_refused(path, namespace):
    for tool in ("kubectl", "helm"):
        pretend(path, tool)
    done = deploy(path, "install-charts", ENV="gke", CONTEXT="c", NAMESPACE=namespace)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: NAMESPACE: {namespace} ")


ASKED = 'echo "${0##*/} $*" >> "$CALLS"'


def calls_of(path):
    return (path / "calls").read_text().splitlines()


def install_charts(path, answers="", values="", **environment):
    """What is called to install the charts where the cluster and Docker answer so."""
    script = path / "repository" / "k8s" / "deploy.sh"
    (script.parent / "gke").mkdir(parents=True)
    for name in ("deploy.sh", "platform", "unready.py"):
        (script.parent / name).symlink_to(ROOT / "k8s" / name)
    (script.parent / "gke" / "training.yaml").write_text(f"image:\n  repository: registry.example/trainer\n{values}")
    for tool in ("kubectl", "helm", "docker"):
        pretend(path, tool, f'{ASKED}; case "$*" in {answers} esac')
    done = deploy(
        path, "install-charts", script=script, ENV="gke", CONTEXT="c", CALLS=str(path / "calls"), **environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    return calls_of(path)


def test_each_team_has_its_namespace_and_all_share_the_monitors(path):
    calls = install_charts(path, '*"get namespace"*) exit 1 ;;', NAMESPACE="team-b")
    assert "kubectl --context c create namespace team-b" in calls
    assert (
        "kubectl --context c label namespace team-b --overwrite pod-security.kubernetes.io/enforce=restricted" in calls
    )
    installed = [line.split(" --create-namespace ")[1] for line in calls if line.startswith("helm")]
    assert installed[0].startswith("training helm/training --namespace team-b ")
    assert installed[1].startswith("monitoring helm/monitoring --namespace monitoring ")


@pytest.mark.parametrize(
    ("digests", "passed"),
    [
        ("registry.example/trainer@sha256:abc", "--set image.digest=sha256:abc"),
        ("other.example/trainer@sha256:def\nregistry.example/trainer@sha256:abc", "--set image.digest=sha256:abc"),
        ("other.example/trainer@sha256:def", ""),
        ("", ""),
    ],
)
def test_an_image_that_was_pushed_is_installed_by_its_digest(path, digests, passed):
    calls = install_charts(path, f'*"image inspect registry.example/trainer:1 "*) printf "{digests}" ;;')
    (installed,) = [line for line in calls if " training helm/training " in line]
    assert installed.partition("training.yaml ")[2] == passed


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        ("", "registry.example/trainer:1"),
        ("  tag: 0.2.0\n", "registry.example/trainer:0.2.0"),
        ("  digest: sha256:abc\n", None),
    ],
)
def test_the_digest_is_that_of_the_image_which_the_values_name(path, values, asked):
    calls = [line.split() for line in install_charts(path, values=values) if line.startswith("docker image inspect")]
    assert [call[3] for call in calls] == ([asked] if asked else [])


def test_the_platforms_namespaces_say_which_pods_they_let_in(path):
    pretend(path, "helm", ASKED)
    pretend(path, "kubectl", f'{ASKED}; [[ "$*" != *"get namespace"* && "$*" != *"get secret"* ]]')
    done = deploy(path, "install-platform", ENV="eks", CONTEXT="c", CALLS=str(path / "calls"))
    assert (done.returncode, done.stderr) == (0, "")
    labelled = [line.split(" label namespace ")[1] for line in calls_of(path) if " label namespace " in line]
    level = "pod-security.kubernetes.io/enforce="
    assert labelled == [
        f"monitoring {level}privileged",
        f"kuberay-system {level}restricted",
        f"gpu-operator {level}privileged",
    ]


@pytest.mark.parametrize(
    ("env", "own"),
    [
        ("kind", []),
        ("gke", ["kube-prometheus-stack"]),
        ("eks", ["kube-prometheus-stack"]),
        ("aks", ["kube-prometheus-stack", "gpu-operator"]),
    ],
)
def test_a_clouds_own_values_win_over_those_of_the_platform(path, env, own):
    pretend(path, "helm", ASKED)
    pretend(path, "kubectl", ASKED)
    deploy(path, "install-platform", ENV=env, CONTEXT="c", CALLS=str(path / "calls"))
    values = re.findall(r"--values k8s/(\S+)", "\n".join(calls_of(path)))
    of_platform = [value.removeprefix("platform/") for value in values if value.startswith("platform/")]
    for chart in ("kube-prometheus-stack", "kuberay-operator", *(["gpu-operator"] if env in ("eks", "aks") else [])):
        assert f"{chart}.yaml" in of_platform
        after = values[values.index(f"platform/{chart}.yaml") + 1 :][:1]
        assert (after == [f"{env}/{chart}.yaml"]) is (chart in own), chart


def test_namespaces_and_secrets_that_are_there_stay_as_they_are(path):
    pretend(path, "helm", ASKED)
    pretend(path, "kubectl", ASKED)
    deploy(path, "install-platform", ENV="gke", CONTEXT="c", CALLS=str(path / "calls"))
    assert not [line for line in calls_of(path) if " label " in line or " create " in line]


def test_grafanas_password_is_made_at_random_and_is_in_no_argument(path):
    secrets = []
    for run in ("1", "2"):
        pretend(path, "helm")
        pretend(
            path,
            "kubectl",
            f'{ASKED}; case "$*" in *"get secret"*) exit 1 ;; *"create secret"*) '
            'while read -r line; do echo "$line"; done > "$SECRET" ;; esac',
        )
        deploy(path, "install-platform", ENV="gke", CONTEXT="c", CALLS=str(path / "calls"), SECRET=str(path / run))
        secrets.append(dict(line.split("=") for line in (path / run).read_text().splitlines()))
    assert secrets[0]["admin-user"] == "admin"
    assert secrets[0]["admin-password"] != secrets[1]["admin-password"]
    assert len(secrets[0]["admin-password"]) == 48
    assert secrets[0]["admin-password"] not in "".join(calls_of(path))
    (made,) = {line for line in calls_of(path) if "create secret" in line}
    assert "-n monitoring create secret generic grafana-admin --from-env-file=/dev/stdin" in made
    values = yaml.safe_load((ROOT / "k8s" / "platform" / "kube-prometheus-stack.yaml").read_text())
    assert values["grafana"]["admin"]["existingSecret"] == "grafana-admin"
    assert {values["grafana"]["admin"][key] for key in ("userKey", "passwordKey")} == set(secrets[0])


def test_the_platform_stays_while_another_team_uses_it(path):
    for tool in ("docker", "helm"):
        pretend(path, tool, ASKED)
    pretend(path, "kubectl", f'{ASKED}; case "$*" in *"get configmaps"*) printf "team-b " ;; esac')
    done = deploy(path, "uninstall", CONTEXT="c", YES="1", CALLS=str(path / "calls"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "for the teams in: team-b\n" in done.stdout
    assert [line.split()[-1] for line in calls_of(path) if line.startswith("helm uninstall")] == ["training"]
    assert [line for line in calls_of(path) if "delete namespace" in line] == [
        "kubectl --context c delete namespace training --ignore-not-found --timeout 300s"
    ]


@pytest.mark.parametrize("clusters", ["fashion-mnist", "fashion-mnist-2", ""])
def test_a_kind_cluster_is_made_only_if_there_is_none_of_its_name(path, clusters):
    for tool in ("kubectl", "helm", "docker"):
        pretend(path, tool)
    pretend(path, "kind", f'[ "$1" != get ] || echo "{clusters}"; echo "$*" >> "$CALLS"')
    deploy(path, "kind-create", CALLS=str(path / "calls"))
    assert ("create cluster" in (path / "calls").read_text()) is (clusters != "fashion-mnist")


def test_a_kind_that_cannot_list_its_clusters_removes_nothing(path):
    for tool in ("kubectl", "helm", "docker"):
        pretend(path, tool)
    pretend(path, "kind", "exit 1")
    done = deploy(path, "kind-delete", YES="1")
    assert (done.returncode, "kind cannot list its clusters" in done.stderr) == (2, True)


def test_only_the_definitions_of_the_platform_are_removed(path):
    for tool in ("docker", "helm"):
        pretend(path, tool)
    names = "customresourcedefinition.apiextensions.k8s.io/"
    crds = "\n".join(f"{names}{name}" for name in ("rayjobs.ray.io", "x.monitoring.coreos.com", "x.array.io.example"))
    pretend(path, "kubectl", f'echo "$*" >> "$CALLS"; case "$*" in *"get crds"*) echo "{crds}" ;; esac')
    done = deploy(path, "uninstall", CONTEXT="c", YES="1", CALLS=str(path / "calls"))
    assert (done.returncode, done.stderr) == (0, "")
    removed = [line for line in (path / "calls").read_text().splitlines() if f"delete {names}" in line]
    assert [line.rpartition("/")[2] for line in removed] == ["rayjobs.ray.io", "x.monitoring.coreos.com"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_know_only_bash_3_and_what_all_systems_tools_do(script):
    lines = (ROOT / script).read_text().splitlines()
    words = {**NEWER_THAN_BASH_3, **ONLY_GNU}
    code = [(number, re.sub(r"(^|\s)#.*", "", line)) for number, line in enumerate(lines, 1)]
    assert [f"{name}: line {n}" for n, line in code for name, word in words.items() if re.search(word, line)] == []


def test_the_makefile_needs_no_newer_make_than_macos_has():
    text = (ROOT / "Makefile").read_text()
    newer = r"^\.ONESHELL|!=|::=|\$\(file |\$\(guile |\$\(intcmp |\$\(let |^\s*undefine |&:|^\.SHELLFLAGS"
    assert re.findall(newer, re.sub(r'".*?"|\[.*?\]', "", text), re.MULTILINE) == []
