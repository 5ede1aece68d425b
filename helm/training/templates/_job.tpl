{{- /* A run as a RayJob: root, cluster (job: with a Ray cluster of its own; standing: on the one that is there). */}}
{{- define "training.rayJob" -}}
{{- $ := .root }}
{{- $job := $.Values.job }}
{{- $own := eq .cluster "job" }}
{{- $pods := 0 }}
{{- range fromYaml (include "training.groups" $) }}
{{- $pods = add $pods .replicas }}
{{- end }}
{{- if and $.Values.kueue.queueName (not $pods) }}
{{- fail "kueue.queueName: Kueue starts as many workers as replicas says, and it is 0 in all groups; set one" }}
{{- end -}}
apiVersion: ray.io/v1
kind: RayJob
metadata:
  name: {{ $job.name | quote }}
  namespace: {{ $.Release.Namespace | quote }}
  labels:
    {{- include "training.podLabels" (dict "root" $ "component" "run") | nindent 4 }}
    {{- if $own }}
    {{- with $.Values.kueue.queueName }}
    kueue.x-k8s.io/queue-name: {{ . | quote }}
    {{- end }}
    {{- end }}
spec:
  entrypoint: "python -m trainer train --name {{ $job.name }} --config /etc/trainer/train.yaml --log-format json"
  # A submitter pod of our own making. SidecarMode's would have no security context, and `restricted` refuses it.
  submissionMode: K8sJobMode
  submitterConfig:
    # Tried first, in the same cluster: follow the job again, or submit it to a new head.
    backoffLimit: {{ int64 $job.submitterBackoffLimit }}
  activeDeadlineSeconds: {{ int64 $job.activeDeadlineSeconds }}
  preRunningDeadlineSeconds: {{ int64 $job.preRunningDeadlineSeconds }}
  {{- if $own }}
  # Tried next: a whole new cluster, which continues the run of this name from storage.
  backoffLimit: {{ int64 $job.backoffLimit }}
  # Without it the cluster, GPUs included, would outlive the run. Suspending and Kueue need it as well.
  shutdownAfterJobFinishes: true
  # Not at once: the last values are still to be scraped.
  ttlSecondsAfterFinished: {{ int64 $job.ttlSecondsAfterFinished }}
  {{- else }}
  clusterSelector: {ray.io/cluster: {{ include "training.name" $ | quote }}}
  {{- end }}
  submitterPodTemplate:
    {{- include "training.submitter" . | nindent 4 }}
  {{- if $own }}
  rayClusterSpec:
    {{- include "training.clusterSpec" . | nindent 4 }}
  {{- end }}
{{- end }}

{{- /* It submits the job and follows its log; KubeRay writes its command and the token. */}}
{{- define "training.submitter" -}}
{{- $ := .root -}}
metadata:
  labels:
    {{- include "training.podLabels" (dict "root" $ "component" "submitter") | nindent 4 }}
  {{- with $.Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  restartPolicy: Never
  serviceAccountName: "{{ include "training.name" $ }}-submitter"
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- include "training.podSecurity" $ | nindent 4 }}
  {{- with include "training.placement" $.Values.head }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with $.Values.head.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: ray-job-submitter
      image: {{ include "training.image" $ | quote }}
      imagePullPolicy: {{ $.Values.image.pullPolicy | quote }}
      env:
        - {name: HOME, value: /tmp}
      resources:
        {{- toYaml $.Values.job.submitterResources | nindent 8 }}
      securityContext:
        {{- include "training.containerSecurity" $ | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
{{- end }}
