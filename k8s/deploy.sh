#!/usr/bin/env bash
# What `make deploy` and its parts do. Every step can be repeated and run alone:
#   k8s/deploy.sh STEP...   check-tools kind-create install-platform kind-load install-charts wait-ready
#                           uninstall kind-delete
# ENV names a folder of k8s/. kind makes its own cluster; the others, and CONTEXT, use one that is there.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=k8s/platform/versions.env
. k8s/platform/versions.env

ENV=${ENV:-kind}
CLUSTER=${KIND_CLUSTER:-fashion-mnist} # the name in k8s/kind/cluster.yaml, or another
IMAGE=${IMAGE:?the image to load, as in make deploy}
NAMESPACE=training
PATIENCE_S=${PATIENCE_S:-300} # how long wait-ready and uninstall wait
PYTHON=${PYTHON:-python3}
values=k8s/$ENV/training.yaml
own_cluster=$([ "$ENV" = kind ] && [ -z "${CONTEXT:-}" ] && echo yes || true)

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
  [ -f "$values" ] || fail "ENV: $values does not exist; ENV is one of $(environments)."
  CONTEXT=${CONTEXT:-$(kubectl config current-context 2> /dev/null)} ||
    fail "CONTEXT: kubectl has no current context; name one, as in make deploy ENV=$ENV CONTEXT=name."
}

environments() { for file in k8s/*/training.yaml; do basename "$(dirname "$file")"; done | tr '\n' ' ' | sed 's/ $//'; }

kind_create() {
  if [ -n "$own_cluster" ] && ! kind get clusters 2> /dev/null | grep -qx "$CLUSTER"; then
    kind create cluster --name "$CLUSTER" --config k8s/kind/cluster.yaml --wait 120s \
      ${KIND_NODE_IMAGE:+--image "$KIND_NODE_IMAGE"}
  fi
  local answer
  answer=$(kube version --request-timeout=10s 2>&1) ||
    fail "CONTEXT: the cluster of $CONTEXT is unreachable: ${answer##*$'\n'}"
  say "cluster $CONTEXT answers"
}

install_platform() {
  # The stack first: it has the definitions of the monitors.
  chart monitoring prometheus kube-prometheus-stack "${PROMETHEUS_STACK_CHART:-}" \
    "$PROMETHEUS_STACK_REPO" "$PROMETHEUS_STACK_VERSION"
  monitors # before Prometheus reads its first configuration: the next one takes up to three minutes
  chart kuberay-system kuberay-operator kuberay-operator "${KUBERAY_OPERATOR_CHART:-}" \
    "$KUBERAY_OPERATOR_REPO" "$KUBERAY_OPERATOR_VERSION"
  if [ "$ENV" = eks ] || [ "$ENV" = aks ]; then
    chart gpu-operator gpu-operator gpu-operator "" "$GPU_OPERATOR_REPO" "$GPU_OPERATOR_VERSION"
  fi
}

chart() { # chart NAMESPACE RELEASE CHART PATH REPOSITORY VERSION
  local source=("$3" --repo "$5" --version "$6")
  [ -z "$4" ] || source=("$4")
  say "chart $3 from ${4:-$5, version $6}"
  release "$2" "${source[@]}" --namespace "$1" --values "k8s/platform/$3.yaml"
}

kind_load() {
  [ -n "$own_cluster" ] || { say "no image to load: the nodes pull $(image_of_values)"; return; }
  docker image inspect "$IMAGE" > /dev/null 2>&1 || fail "Docker has no image $IMAGE; build it: make image."
  say "loading $IMAGE into the nodes (minutes the first time, seconds when only the code changed)"
  ${KIND_LOAD:-kind load docker-image} "$IMAGE" --name "$CLUSTER"
}

image_of_values() { awk '/^ +repository:/ {print $2; exit}' "$values"; }

install_charts() {
  local placeholders
  placeholders=$(sed 's/#.*//' "$values" | grep -oE '<[A-Z-]+>' | sort -u | tr '\n' ' ') || true
  [ -z "$placeholders" ] || fail "$values still has placeholders: ${placeholders% }; replace them (docs/clouds.md)."
  kube create namespace $NAMESPACE --dry-run=client -o yaml | kube apply -f - > /dev/null
  kube label namespace $NAMESPACE --overwrite pod-security.kubernetes.io/enforce=restricted > /dev/null
  [ "$ENV" != kind ] || object_store
  say "chart helm/training with $values"
  release training helm/training --namespace $NAMESPACE --values "$values"
  monitors
}

monitors() {
  local own=k8s/$ENV/monitoring.yaml
  [ -f "$own" ] || own=helm/monitoring/values.yaml
  say "chart helm/monitoring"
  release monitoring helm/monitoring --namespace monitoring --values "$own"
}

object_store() {
  # Its keys are made here, once; they are in no file and no argument list.
  kube -n $NAMESPACE get secret object-store > /dev/null 2>&1 || {
    printf 'AWS_ACCESS_KEY_ID=training\nAWS_SECRET_ACCESS_KEY=%s\n' "$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')" |
      kube -n $NAMESPACE create secret generic object-store --from-env-file=/dev/stdin > /dev/null
  }
  say "object store"
  kube -n $NAMESPACE apply -f k8s/kind/object-store.yaml > /dev/null
}

wait_ready() {
  local until=$((SECONDS + PATIENCE_S)) waiting last=""
  while waiting=$(unready) && [ -n "$waiting" ]; do
    [ "$waiting" = "$last" ] || printf '%s\n' "$waiting" | while read -r line; do say "waiting for $line"; done
    last=$waiting
    ((SECONDS < until)) || fail "not ready after $PATIENCE_S s: $(tr '\n' ';' <<< "$waiting") see kubectl --context" \
      "$CONTEXT get events -A --sort-by=.lastTimestamp, or wait longer with PATIENCE_S=900."
    sleep 1
  done
  local job_note=""
  [ "$ENV" = kind ] || job_note=" (that of kind; yours is in the ConfigMap training-rayjob)"
  say "ready. Next:
  make setup                                                                   install the command, once
  .venv/bin/trainer submit --name tea --context $CONTEXT --namespace $NAMESPACE
                                                                               start a run and follow it
  kubectl --context $CONTEXT apply -f k8s/rayjob.yaml                          or start one without it$job_note
  kubectl --context $CONTEXT -n $NAMESPACE get rayjob,pods --watch             watch it
  kubectl --context $CONTEXT -n $NAMESPACE logs -f job/fashion-mnist           its log
  kubectl --context $CONTEXT -n monitoring port-forward service/prometheus-operated 9090
                                                                               Prometheus: http://localhost:9090"
}

# A line for each pod, deployment and Prometheus that is not ready, with what it lacks.
unready() {
  local namespace
  for namespace in monitoring kuberay-system $NAMESPACE; do
    kube -n "$namespace" get deployments,statefulsets -o json | "$PYTHON" k8s/unready.py
    # the pods of runs come and go: not part of the installation
    kube -n "$namespace" get pods --selector '!ray.io/cluster,!batch.kubernetes.io/job-name' -o json |
      "$PYTHON" k8s/unready.py
  done
  kube -n monitoring get prometheuses.monitoring.coreos.com -o json | "$PYTHON" k8s/unready.py
  unread
}

# The monitors that Prometheus does not know yet: a run before that would not be in it.
unread() {
  local config monitor
  # some users may not ask, and some API servers cannot reach pods: then this is not waited for
  local proxy=/api/v1/namespaces/monitoring/services/prometheus-operated:9090/proxy
  config=$(kube get --raw $proxy/api/v1/status/config 2> /dev/null) || return 0
  for monitor in $(kube -n monitoring get podmonitors.monitoring.coreos.com -o name); do
    [[ $config == *"podMonitor/monitoring/${monitor##*/}/"* ]] || echo "Prometheus to read its monitors (up to three minutes)"
  done | sort -u
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
  kube -n $NAMESPACE delete rayjobs.ray.io,rayclusters.ray.io --all --ignore-not-found --timeout "${PATIENCE_S}s" 2> /dev/null || true
  say "charts"
  for each in training/training monitoring/monitoring; do
    helm uninstall --kube-context "$CONTEXT" --ignore-not-found --wait --namespace "${each%/*}" "${each#*/}" > /dev/null
  done
  if [ "$ENV" != kind ]; then
    say "kept: namespace $NAMESPACE, and the platform (KubeRay, Prometheus), which others may use"
    return
  fi
  for each in kuberay-system/kuberay-operator monitoring/prometheus; do
    helm uninstall --kube-context "$CONTEXT" --ignore-not-found --wait --namespace "${each%/*}" "${each#*/}" > /dev/null
  done
  say "namespaces and definitions"
  kube delete namespace $NAMESPACE kuberay-system monitoring --ignore-not-found --timeout "${PATIENCE_S}s" > /dev/null
  # made by the Prometheus operator, which makes it again as long as it runs
  kube -n kube-system delete service --selector k8s-app=kubelet --ignore-not-found > /dev/null
  kube get crds -o name | grep -E '\.(ray\.io|monitoring\.coreos\.com)$' | xargs -r kubectl --context "$CONTEXT" delete > /dev/null
  say "only the cluster itself is left; make kind-delete removes it"
}

kind_delete() {
  kind get clusters 2> /dev/null | grep -qx "$CLUSTER" || { say "there is no kind cluster $CLUSTER"; return; }
  confirm "This removes the kind cluster $CLUSTER and the runs in its object store; their records cannot be restored."
  kind delete cluster --name "$CLUSTER"
}

check_tools # first of all: it sets CONTEXT
for step in "$@"; do
  case $step in
    check-tools) ;;
    kind-create | install-platform | kind-load | install-charts | wait-ready | uninstall | kind-delete) "${step//-/_}" ;;
    *) fail "there is no step $step; the steps are in k8s/deploy.sh." ;;
  esac
done
