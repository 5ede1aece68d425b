{{/* Names, labels and the small pieces that several objects share. */}}

{{- define "training.name" -}}
{{- $name := .Values.fullnameOverride | default .Release.Name }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$" $name) }}
{{- $rule := "KubeRay takes up to 40 lower-case letters, digits and '-', beginning with a letter" }}
{{- fail (printf "%s %q: %s" (ternary "fullnameOverride" "release name" (not (empty .Values.fullnameOverride))) $name $rule) }}
{{- end }}
{{- $name }}
{{- end }}

{{- define "training.labels" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name | quote }}
app.kubernetes.io/instance: {{ include "training.name" . | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/part-of: fashion-mnist-on-ray
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end }}

{{- /* What policies, budgets and monitors find pods by. Not app.kubernetes.io/name: KubeRay's head service selects by
its own value of it, and would find no pod under ours. */}}
{{- define "training.podLabels" -}}
app.kubernetes.io/instance: {{ include "training.name" .root | quote }}
app.kubernetes.io/component: {{ .component | quote }}
app.kubernetes.io/part-of: fashion-mnist-on-ray
{{- end }}

{{- define "training.image" -}}
{{- $image := .Values.image }}
{{- with $image.digest }}
{{- printf "%s@%s" $image.repository . }}
{{- else }}
{{- printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "training.storage" -}}
{{- required "storage.uri: say where runs are kept, such as s3://bucket/prefix" .Values.storage.uri }}
{{- end }}

{{- /* Nodes for a pod, and how it runs there: of the head (which the submitter shares) or a worker group. */}}
{{- define "training.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "training.caBundlePath" -}}
/etc/ca-bundle
{{- end }}

{{- define "training.tokenSecret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-token" (include "training.name" .)) }}
{{- end }}

{{- define "training.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.security.runAsUser }}
runAsUser: {{ int64 . }}
runAsGroup: {{ int64 . }}
fsGroup: {{ int64 . }}
{{- end }}
{{- with .Values.security.seccompProfile }}
seccompProfile: {type: {{ . | quote }}}
{{- end }}
{{- end }}

{{- /* Of every container: what Pod Security's `restricted` asks for, and a root file system that stays as it is. */}}
{{- define "training.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* "true" if Ray's autoscaler makes the workers. Kueue admits a fixed number of pods, so its runs go without. */}}
{{- define "training.autoscaling" -}}
{{- if or (not .root.Values.kueue.queueName) (eq .cluster "standing") }}true{{ end }}
{{- end }}

{{- /* Worker groups as a YAML map: each over the defaults, checked, those to be tried first in front. */}}
{{- define "training.groups" -}}
{{- range $name, $group := .Values.workerGroups }}
{{- $group = mergeOverwrite (deepCopy $.Values.groupDefaults) $group }}
{{- if gt (int $group.minReplicas) (int $group.maxReplicas) }}
{{- fail (printf "workerGroups.%s: minReplicas is above maxReplicas %v" $name $group.maxReplicas) }}
{{- end }}
{{- if ne (empty $group.accelerator.resource) (eq 0 (int $group.accelerator.count)) }}
{{- fail (printf "workerGroups.%s.accelerator: give a resource and a count from 1, or neither" $name) }}
{{- end }}
{{- if kindIs "invalid" $group.replicas }}
{{- $_ := set $group "replicas" $group.minReplicas }}
{{- end }}
{{- if or (lt (int $group.replicas) (int $group.minReplicas)) (gt (int $group.replicas) (int $group.maxReplicas)) }}
{{- fail (printf "workerGroups.%s: replicas %v is not between minReplicas and maxReplicas" $name $group.replicas) }}
{{- end }}
{{- $_ := set $group "name" $name }}
{{ printf "%06d-%s" (sub 100000 (int $group.priority)) $name }}: {{ toJson $group }}
{{- end }}
{{- end }}
