#!/usr/bin/env bash
# What `make deploy` and its parts do. Every step can be repeated and run alone:
#   k8s/deploy.sh STEP...   check-tools kind-create install-platform kind-load install-charts wait-ready
#                           grafana prometheus uninstall kind-delete
# ENV names a folder of k8s/. kind makes its own cluster; the others, and CONTEXT, use one that is there.
#
# For bash 3.2 and the tools of Linux, BSD, macOS and busybox alike: what bash itself can do, no tool does, and a check
# whose tool fails is a check that has failed.
set -euo pipefail
unset CDPATH # cd would go elsewhere, and say so
cd "$(dirname "$0")/.."
# shellcheck source=k8s/platform/versions.env
. k8s/platform/versions.env

ENV=${ENV:-kind}
CLUSTER=${KIND_CLUSTER:-fashion-mnist} # the name in k8s/kind/cluster.yaml, or another
IMAGE=${IMAGE:?the image to load, as in make deploy}
NAMESPACE=${NAMESPACE:-training} # one for each team
PATIENCE_S=${PATIENCE_S:-300} # how long wait-ready and uninstall wait
PYTHON=${PYTHON:-python3}
values=k8s/$ENV/training.yaml
MONITORS=monitoring # the namespace of helm/monitoring
[ "$ENV" != openshift ] || MONITORS=$NAMESPACE # its Prometheus sees the pods of a monitor's own namespace alone
newline=$'\n'
own_cluster=""
if [ "$ENV" = kind ] && [ -z "${CONTEXT:-}" ]; then own_cluster=yes; fi

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }
fail() { printf 'Error: %s\n' "$*" >&2; exit 2; }
kube() { kubectl --context "$CONTEXT" "$@"; }
release() { helm upgrade --install --kube-context "$CONTEXT" --create-namespace "$@" > /dev/null; }

need() { # need PROGRAM WHERE-IT-COMES-FROM
  command -v "$1" > /dev/null || fail "$1 is not installed; get it from $2."
}

check_tools() {
  need kubectl https://kubernetes.io/docs/tasks/tools
  need helm https://helm.sh/docs/intro/install
  need "$PYTHON" https://www.python.org/downloads
  if [ -n "$own_cluster" ]; then
    need docker https://docs.docker.com/engine/install
    docker info > /dev/null 2>&1 || fail "Docker is installed but not running, or refuses this user; start it, or add the user to its group."
    need kind https://kind.sigs.k8s.io/docs/user/quick-start
    CONTEXT=kind-$CLUSTER
  fi
  [[ $NAMESPACE =~ ^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
    fail "NAMESPACE: $NAMESPACE cannot name a namespace; use lower-case letters, digits and '-'."
  case $NAMESPACE in monitoring | kuberay-system | gpu-operator | kube-* | default)
    fail "NAMESPACE: $NAMESPACE has other things in it; give runs one of their own, as in NAMESPACE=team-b." ;;
  esac
  [ -f "$values" ] || fail "ENV: $values does not exist; ENV is one of $(environments)."
  CONTEXT=${CONTEXT:-$(kubectl config current-context 2> /dev/null)} ||
    fail "CONTEXT: kubectl has no current context; name one, as in make deploy ENV=$ENV CONTEXT=name."
}

environments() { # the names of all, in one line
  local file names=""
  for file in k8s/*/training.yaml; do
    file=${file%/training.yaml}
    names="$names ${file##*/}"
  done
  printf '%s' "${names# }"
}

has_kind_cluster() {
  local clusters name
  clusters=$(kind get clusters 2> /dev/null) || fail "kind cannot list its clusters; see kind get clusters."
  for name in $clusters; do
    if [ "$name" = "$CLUSTER" ]; then return 0; fi
  done
  return 1
}

kind_create() {
  if [ -n "$own_cluster" ] && ! has_kind_cluster; then
    kind create cluster --name "$CLUSTER" --config k8s/kind/cluster.yaml --wait 120s \
      ${KIND_NODE_IMAGE:+--image "$KIND_NODE_IMAGE"}
  fi
  local answer
  answer=$(kube version --request-timeout=10s 2>&1) ||
    fail "CONTEXT: the cluster of $CONTEXT is unreachable: ${answer##*"$newline"}"
  say "cluster $CONTEXT answers"
}

# A namespace, and which pods it admits: Pod Security's restricted, or privileged where pods look into their node.
namespace() { # namespace NAME LEVEL
  kube get namespace "$1" > /dev/null 2>&1 && return # others may have decided
  kube create namespace "$1" > /dev/null
  kube label namespace "$1" "pod-security.kubernetes.io/enforce=$2" > /dev/null
}

# A Secret that is made here, once: its keys are in no file and no argument list.
secret() { # secret NAMESPACE NAME KEY OTHER-KEY VALUE-OF-THE-OTHER
  local random
  kube -n "$1" get secret "$2" > /dev/null 2>&1 && return
  random=$("$PYTHON" -c 'import secrets; print(secrets.token_hex(24))')
  printf '%s=%s\n%s=%s\n' "$3" "$random" "$4" "$5" |
    kube -n "$1" create secret generic "$2" --from-env-file=/dev/stdin > /dev/null
}

install_platform() {
  # The stack first: it has the definitions of the monitors. OpenShift has one of its own.
  if [ "$ENV" != openshift ]; then
    namespace monitoring privileged # the node exporter
    secret monitoring grafana-admin admin-password admin-user admin
    chart monitoring prometheus kube-prometheus-stack "${PROMETHEUS_STACK_CHART:-}" \
      "$PROMETHEUS_STACK_REPO" "$PROMETHEUS_STACK_VERSION"
  fi
  monitors # before Prometheus reads its first configuration: the next one takes up to three minutes
  namespace kuberay-system restricted
  chart kuberay-system kuberay-operator kuberay-operator "${KUBERAY_OPERATOR_CHART:-}" \
    "$KUBERAY_OPERATOR_REPO" "$KUBERAY_OPERATOR_VERSION"
  if [ "$ENV" = eks ] || [ "$ENV" = aks ]; then
    namespace gpu-operator privileged
    chart gpu-operator gpu-operator gpu-operator "" "$GPU_OPERATOR_REPO" "$GPU_OPERATOR_VERSION"
  fi
}

chart() { # chart NAMESPACE RELEASE CHART PATH REPOSITORY VERSION: its values, and over them those of ENV
  local source=("$3" --repo "$5" --version "$6") own=k8s/$ENV/$3.yaml
  [ -z "$4" ] || source=("$4")
  say "chart $3 from ${4:-$5, version $6}"
  [ -f "$own" ] || own=""
  release "$2" "${source[@]}" --namespace "$1" --values "k8s/platform/$3.yaml" ${own:+--values "$own"}
}

kind_load() {
  [ -n "$own_cluster" ] || { say "no image to load: the nodes pull $(image_of_values)"; return; }
  docker image inspect "$IMAGE" > /dev/null 2>&1 || fail "Docker has no image $IMAGE; build it: make image."
  say "loading $IMAGE into the nodes (minutes the first time, seconds when only the code changed)"
  ${KIND_LOAD:-kind load docker-image} "$IMAGE" --name "$CLUSTER"
}

image_of_values() {
  local key value
  while read -r key value; do
    if [ "$key" = repository: ]; then printf '%s' "$value"; return; fi
  done < "$values"
}

# Those of the values outside comments, each once, in one line.
placeholders() {
  local line pattern='<[A-Z][A-Z-]*>' found=""
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line%%#*}
    while [[ $line =~ $pattern ]]; do
      [[ " $found " == *" ${BASH_REMATCH[0]} "* ]] || found="$found ${BASH_REMATCH[0]}"
      line=${line#*"${BASH_REMATCH[0]}"}
    done
  done < "$values" || return 1
  printf '%s' "${found# }"
}

install_charts() {
  local left
  left=$(placeholders) || fail "$values cannot be read."
  [ -z "$left" ] || fail "$values still has placeholders: $left; replace them (docs/clouds.md)."
  namespace "$NAMESPACE" restricted
  kube label namespace "$NAMESPACE" --overwrite pod-security.kubernetes.io/enforce=restricted > /dev/null
  [ "$ENV" != kind ] || object_store
  local digest
  digest=$(digest_of_values)
  say "chart helm/training with $values${digest:+, image by digest}"
  release training helm/training --namespace "$NAMESPACE" --values "$values" ${digest:+--set "image.digest=$digest"}
  monitors
}

monitors() {
  local own=k8s/$ENV/monitoring.yaml
  [ -f "$own" ] || own=helm/monitoring/values.yaml
  say "chart helm/monitoring"
  release monitoring helm/monitoring --namespace "$MONITORS" --values "$own"
}

# What the registry calls the image that was pushed from here: a tag can be moved, a digest cannot. Nothing if Docker or
# the image is not here, or the values name a digest.
digest_of_values() {
  local line digests repository tag=${IMAGE##*:}
  while read -r line; do
    case $line in
      digest:*) return 0 ;;
      tag:*) tag=${line#tag: } ;;
    esac
  done < "$values"
  repository=$(image_of_values)
  digests=$(docker image inspect "$repository:$tag" --format '{{join .RepoDigests "\n"}}' 2> /dev/null) || return 0
  while read -r line; do
    if [ "${line%@*}" = "$repository" ]; then printf '%s' "${line#*@}"; fi
  done <<< "$digests"
}

object_store() {
  secret "$NAMESPACE" object-store AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID training
  say "object store"
  kube -n "$NAMESPACE" apply -f k8s/kind/object-store.yaml > /dev/null
}

wait_ready() {
  local until=$((SECONDS + PATIENCE_S)) waiting last=""
  while waiting=$(unready) || true; [ -n "$waiting" ]; do
    [ "$waiting" = "$last" ] || printf '%s\n' "$waiting" | while read -r line; do say "waiting for $line"; done
    last=$waiting
    ((SECONDS < until)) || fail "not ready after $PATIENCE_S s: ${waiting//$newline/; }; see kubectl --context" \
      "$CONTEXT get events -A --sort-by=.lastTimestamp, or wait longer with PATIENCE_S=900."
    sleep 1
  done
  local there="ENV=$ENV CONTEXT=$CONTEXT" note="" without="" grafana=""
  [ -z "$own_cluster" ] || there=""
  [ "$NAMESPACE" = training ] || there="${there:+$there }NAMESPACE=$NAMESPACE"
  [ "$ENV" = openshift ] || grafana="
  make grafana${there:+ $there}"
  [ "$ENV" = kind ] || note=" (that of kind; yours is in the ConfigMap training-rayjob)"
  [ "$NAMESPACE" != training ] || without="
  kubectl --context $CONTEXT apply -f k8s/rayjob.yaml                          or start one without it$note
  kubectl --context $CONTEXT -n $NAMESPACE logs -f job/fashion-mnist           its log"
  say "ready. Next:
  make setup                                                                   install the command, once
  .venv/bin/trainer submit --name tea --context $CONTEXT --namespace $NAMESPACE
                                                                               start a run and follow it$without
  kubectl --context $CONTEXT -n $NAMESPACE get rayjob,pods --watch             watch it
  make prometheus${there:+ $there}$grafana"
}

# Forward a port of this machine until Ctrl-C, and say what is there.
grafana() {
  local found namespace service password=grafana-admin port=${PORT:-3000} name created newest=""
  # by its label: it may come from another release than ours
  found=$(kube get services --all-namespaces --selector app.kubernetes.io/name=grafana \
    -o 'jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{"\n"}{end}') ||
    fail "the services of $CONTEXT cannot be listed; its Grafana must be opened another way (docs/dashboards.md)."
  read -r namespace service <<< "${found%%"$newline"*}"
  [ -n "$service" ] ||
    fail "$CONTEXT has no Grafana; import helm/monitoring/dashboards/*.json into yours (docs/dashboards.md)."
  kube -n "$namespace" get secret "$password" > /dev/null 2>&1 || password=$service # not installed from here
  read -r name created <<< "$(newest_run)"
  [ -z "$name" ] || newest="
  http://localhost:$port/d/trainer-run?var-run=$name&from=$(milliseconds "$created")&to=now    the newest run, $name"
  say "Grafana, until Ctrl-C:
  http://localhost:$port/d/trainer-runs    all runs$newest
The user is admin; the password is in a Secret:
  kubectl --context $CONTEXT -n $namespace get secret $password -o 'jsonpath={.data.admin-password}' | base64 -d"
  forward "$namespace" "$service" "$port" 80
}

prometheus() {
  local namespace=monitoring port=${PORT:-9090} name rest labels=""
  [ "$ENV" != openshift ] || namespace=openshift-user-workload-monitoring
  kube -n $namespace get service prometheus-operated > /dev/null ||
    fail "$CONTEXT has no service prometheus-operated in the namespace $namespace; install it: make install-platform."
  read -r name rest <<< "$(newest_run)"
  [ -z "$name" ] || labels="{run=\"$name\"}"
  say "Prometheus, without a password, until Ctrl-C: http://localhost:$port
  ray_trainer_test_accuracy$labels    for example; docs/metrics.md has all"
  forward $namespace prometheus-operated "$port" 9090
}

forward() { # forward NAMESPACE SERVICE PORT PORT-OF-THE-SERVICE
  kube -n "$1" port-forward "service/$2" "$3:$4" > /dev/null ||
    fail "the connection to $2 ended; if port $3 is taken, name another: PORT=$(($3 + 10000))."
}

newest_run() { # name and time of creation of the newest RayJob, or nothing
  kube -n "$NAMESPACE" get rayjobs.ray.io --sort-by .metadata.creationTimestamp \
    -o 'jsonpath={.items[-1:].metadata.name} {.items[-1:].metadata.creationTimestamp}' 2> /dev/null || true
}

milliseconds() { # milliseconds TIME: since 1970, as Grafana's addresses have them
  "$PYTHON" -c 'import sys, datetime as d
print(int(d.datetime.strptime(sys.argv[1], "%Y-%m-%dT%H:%M:%S%z").timestamp() * 1000))' "$1"
}

# A line for each pod, deployment and Prometheus that is not ready, with what it lacks.
unready() {
  local namespace
  for namespace in monitoring kuberay-system "$NAMESPACE"; do
    unready_of -n "$namespace" get deployments,statefulsets
    # the pods of runs come and go: not part of the installation
    unready_of -n "$namespace" get pods --selector '!ray.io/cluster,!batch.kubernetes.io/job-name'
  done
  unready_of -n monitoring get prometheuses.monitoring.coreos.com
  unread
}

unready_of() { # unready_of ARGUMENTS of kubectl: what cannot be asked is not ready either
  local objects
  objects=$(kube "$@" -o json 2> /dev/null) || { echo "an answer to kubectl --context $CONTEXT $*"; return; }
  "$PYTHON" k8s/unready.py <<< "$objects" || echo "$PYTHON to read the answer to kubectl $*"
}

# The monitors that Prometheus does not know yet: a run before that would not be in it.
unread() {
  local config monitors monitor
  # some users may not ask, and some API servers cannot reach pods: then this is not waited for
  local proxy=/api/v1/namespaces/monitoring/services/prometheus-operated:9090/proxy
  config=$(kube get --raw $proxy/api/v1/status/config 2> /dev/null) || return 0
  monitors=$(kube -n monitoring get podmonitors.monitoring.coreos.com -o name 2> /dev/null) || return 0
  for monitor in $monitors; do
    if [[ $config != *"podMonitor/monitoring/${monitor##*/}/"* ]]; then
      echo "Prometheus to read its monitors (up to three minutes)"
      return
    fi
  done
}

confirm() { # confirm QUESTION
  [ "${YES:-}" != 1 ] || return 0
  [ -t 0 ] || fail "$1 Confirm with YES=1."
  read -rp "$1 Continue? [y/N] " answer
  [ "$answer" = y ] || [ "$answer" = Y ] || fail "stopped; nothing was removed."
}

uninstall() {
  kind_create
  if [ "$ENV" = kind ]; then
    confirm "This also removes the runs in the cluster's object store; their records cannot be restored."
  fi
  # Runs first: what has finalizers needs its operator.
  say "runs and Ray clusters"
  kube -n "$NAMESPACE" delete rayjobs.ray.io,rayclusters.ray.io --all --ignore-not-found --timeout "${PATIENCE_S}s" 2> /dev/null || true
  say "charts"
  uninstall_charts "$NAMESPACE/training"
  [ "$ENV" != kind ] || kube delete namespace "$NAMESPACE" --ignore-not-found --timeout "${PATIENCE_S}s" > /dev/null
  local others
  others=$(kube get configmaps --all-namespaces --selector app.kubernetes.io/component=job-template \
    -o 'jsonpath={range .items[*]}{.metadata.namespace} {end}') || others="unknown "
  if [ -n "$others" ]; then
    say "kept: the platform (KubeRay, Prometheus) and helm/monitoring, for the teams in: ${others% }"
    return
  fi
  uninstall_charts "$MONITORS/monitoring"
  if [ "$ENV" != kind ]; then
    say "kept: namespace $NAMESPACE, and the platform (KubeRay, Prometheus), which others may use"
    return
  fi
  uninstall_charts kuberay-system/kuberay-operator monitoring/prometheus
  say "namespaces and definitions"
  kube delete namespace kuberay-system monitoring --ignore-not-found --timeout "${PATIENCE_S}s" > /dev/null
  # made by the Prometheus operator, which makes it again as long as it runs
  kube -n kube-system delete service --selector k8s-app=kubelet --ignore-not-found > /dev/null
  local crds crd
  crds=$(kube get crds -o name)
  for crd in $crds; do
    case $crd in *.ray.io | *.monitoring.coreos.com) kube delete "$crd" > /dev/null ;; esac
  done
  say "only the cluster itself is left; make kind-delete removes it"
}

uninstall_charts() { # uninstall_charts NAMESPACE/RELEASE...
  local each
  for each in "$@"; do
    helm uninstall --kube-context "$CONTEXT" --ignore-not-found --wait --namespace "${each%/*}" "${each#*/}" > /dev/null
  done
}

kind_delete() {
  has_kind_cluster || { say "there is no kind cluster $CLUSTER"; return; }
  confirm "This removes the kind cluster $CLUSTER and the runs in its object store; their records cannot be restored."
  kind delete cluster --name "$CLUSTER"
}

check_tools # first of all: it sets CONTEXT
for step in "$@"; do
  case $step in
    check-tools) ;;
    kind-create | install-platform | kind-load | install-charts | wait-ready | grafana | prometheus | uninstall | kind-delete) "${step//-/_}" ;;
    *) fail "there is no step $step; the steps are in k8s/deploy.sh." ;;
  esac
done
