{{- /* The Ray cluster of a job and the standing one: root, cluster (job or standing). */}}
{{- define "training.clusterSpec" -}}
{{- $ := .root }}
{{- $cluster := .cluster }}
{{- $autoscaling := eq "true" (include "training.autoscaling" .) -}}
rayVersion: {{ $.Values.rayVersion | quote }}
# Whoever reaches a Ray port can run code: only with the token. A Secret of its own keeps it the same over retries.
authOptions:
  mode: token
  secretName: {{ include "training.tokenSecret" $ | quote }}
enableInTreeAutoscaling: {{ $autoscaling }}
{{- if $autoscaling }}
autoscalerOptions:
  # Written out: KubeRay takes a cluster that leaves it to Ray for version 1.
  version: v2
  idleTimeoutSeconds: {{ int64 $.Values.autoscaler.idleTimeoutSeconds }}
  upscalingMode: {{ $.Values.autoscaler.upscalingMode | quote }}
  imagePullPolicy: {{ $.Values.image.pullPolicy | quote }}
  resources:
    {{- toYaml $.Values.autoscaler.resources | nindent 4 }}
  securityContext:
    {{- include "training.containerSecurity" $ | nindent 4 }}
  env:
    - {name: HOME, value: /tmp}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: api-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}
headGroupSpec:
  rayStartParams:
    # No training on the head: its loss would end the run, and its memory is the driver's.
    num-cpus: "0"
    {{- if eq $.Values.network.ipFamily "IPv6" }}
    # KubeRay's own is 0.0.0.0, and the operator reads there whether the job is done.
    dashboard-host: "::"
    {{- end }}
    {{- include "training.rayStart" . | nindent 4 }}
  template:
    {{- $head := merge (pick $.Values.groupDefaults "shm" "tmp") $.Values.head }}
    {{- include "training.pod" (dict "root" $ "cluster" $cluster "component" "head" "group" $head) | nindent 4 }}
workerGroupSpecs:
  {{- range $group := fromYaml (include "training.groups" $) }}
  - groupName: {{ $group.name | quote }}
    minReplicas: {{ int64 $group.minReplicas }}
    maxReplicas: {{ int64 $group.maxReplicas }}
    replicas: {{ eq $cluster "job" | ternary $group.replicas $group.minReplicas | int64 }}
    numOfHosts: {{ int64 $group.numOfHosts }}
    {{- if and $autoscaling (not (kindIs "invalid" $group.idleTimeoutSeconds)) }}
    idleTimeoutSeconds: {{ int64 $group.idleTimeoutSeconds }}
    {{- end }}
    {{- if and $autoscaling (semverCompare ">=1.7.0-0" $.Values.kuberayVersion) }}
    priority: {{ int64 $group.priority }}
    {{- end }}
    labels:
      ray.io/market-type: {{ $group.spot | ternary "spot" "on-demand" | quote }}
      {{- with $group.rayLabels }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with include "training.rayResources" $group }}
    # Said twice, to Kubernetes below and to Ray here, or the autoscaler would not start this group from zero.
    resources:
      {{- . | nindent 6 }}
    {{- end }}
    rayStartParams:
      {{- include "training.rayStart" $ | nindent 6 }}
    template:
      {{- include "training.pod" (dict "root" $ "cluster" $cluster "component" "worker" "group" $group) | nindent 6 }}
  {{- end }}
{{- end }}

{{- define "training.rayStart" -}}
# It would copy the workers' output to the driver: the trainer does not want it, and it is a process on each node.
include-log-monitor: "false"
{{- end }}

{{- /* What Ray calls a group's accelerator: GPU and TPU by their own names, AWS Neuron devices by their cores. */}}
{{- define "training.rayResources" -}}
{{- $resources := dict }}
{{- $device := .accelerator.resource }}
{{- $count := toString .accelerator.count }}
{{- if or (hasSuffix "gpu" $device) (hasPrefix "nvidia.com/mig-" $device) }}
{{- $_ := set $resources "GPU" $count }}
{{- else if eq $device "google.com/tpu" }}
{{- $_ := set $resources "TPU" $count }}
{{- else if eq $device "aws.amazon.com/neuroncore" }}
{{- $_ := set $resources "neuron_cores" $count }}
{{- else if and $device (not .rayResources) }}
{{- $fix := "say in rayResources what a pod offers, such as {neuron_cores: \"2\"}" }}
{{- fail (printf "workerGroups.%s: Ray has no name for %s; %s" .name $device $fix) }}
{{- end }}
{{- with merge $resources .rayResources }}
{{- toYaml . }}
{{- end }}
{{- end }}
