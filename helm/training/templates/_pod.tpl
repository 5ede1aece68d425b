{{- /* The one pod template of head and workers: root, component (head, worker), cluster (job, standing), group. */}}
{{- define "training.pod" -}}
{{- $ := .root }}
{{- $head := eq .component "head" }}
{{- $group := .group -}}
metadata:
  labels:
    {{- include "training.podLabels" . | nindent 4 }}
    trainer/cluster: {{ .cluster | quote }}
    {{- with $.Values.identity.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $.Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: "{{ include "training.name" $ }}-{{ .component }}"
  # Training code never sees a token of the cluster; the autoscaler has its own volume.
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- if $head }}
  # Ray's autoscaler does not heed SIGTERM, so each head takes all of it to go; the driver needs a few seconds.
  terminationGracePeriodSeconds: 30
  {{- else }}
  # Above the time that Ray drains, or SIGKILL would come first.
  terminationGracePeriodSeconds: {{ include "training.grace" . | int64 }}
  {{- end }}
  {{- with $.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- include "training.podSecurity" $ | nindent 4 }}
  {{- with include "training.placement" $group }}
  {{- . | nindent 2 }}
  {{- end }}
  tolerations:
    {{- range list "node.kubernetes.io/unreachable" "node.kubernetes.io/not-ready" }}
    - {key: {{ . | quote }}, operator: Exists, effect: NoExecute, tolerationSeconds: {{ int64 $.Values.recovery.nodeLossSeconds }}}
    {{- end }}
    {{- if not $head }}
    {{- with $group.accelerator.resource }}
    - {key: {{ . | quote }}, operator: Exists, effect: NoSchedule}
    {{- end }}
    {{- end }}
    {{- with $group.tolerations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if not $head }}
  {{- if ne $group.spread "none" }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: {{ eq $group.spread "required" | ternary "DoNotSchedule" "ScheduleAnyway" | quote }}
      labelSelector:
        matchLabels: {ray.io/group: {{ $group.name | quote }}}
      matchLabelKeys: [ray.io/cluster]
  {{- end }}
  initContainers:
    # Until the head answers: a plain connection, where the operator's own check starts Python each time.
    - name: wait-for-head
      image: {{ include "training.image" $ | quote }}
      imagePullPolicy: {{ $.Values.image.pullPolicy | quote }}
      command: [/bin/bash, -c]
      args: ['until timeout 2 bash -c "exec 3<>/dev/tcp/$FQ_RAY_IP/6379" 2> /dev/null; do sleep 0.5; done']
      resources:
        requests: {cpu: 10m, memory: 16Mi}
        limits: {cpu: 100m, memory: 64Mi}
      securityContext:
        {{- include "training.containerSecurity" $ | nindent 8 }}
  {{- end }}
  containers:
    - name: "ray-{{ .component }}"
      image: {{ include "training.image" $ | quote }}
      imagePullPolicy: {{ $.Values.image.pullPolicy | quote }}
      {{- include "training.ports" . | nindent 6 }}
      env:
        {{- include "training.env" $ | nindent 8 }}
        {{- include "training.drain" . | nindent 8 }}
        {{- include "training.podFacts" . | nindent 8 }}
      {{- with $.Values.storage.existingSecret }}
      envFrom:
        - secretRef: {name: {{ . | quote }}}
      {{- end }}
      resources:
        {{- include "training.resources" $group | nindent 8 }}
      {{- include "training.probes" . | nindent 6 }}
      securityContext:
        {{- include "training.containerSecurity" $ | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
        - {name: config, mountPath: /etc/trainer, readOnly: true}
        - {name: podinfo, mountPath: /etc/podinfo, readOnly: true}
        {{- if $.Values.storage.caBundle.configMap }}
        - {name: ca-bundle, mountPath: {{ include "training.caBundlePath" $ | quote }}, readOnly: true}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: {{ toJson $group.tmp }}}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $group.shm | default $group.resources.limits.memory | toJson }}}
    - name: config
      configMap: {name: "{{ include "training.name" $ }}-config"}
    # Its time stamp tells when the pod had its node and the image was asked for.
    - name: podinfo
      downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
    {{- with $.Values.storage.caBundle.configMap }}
    - name: ca-bundle
      configMap: {name: {{ . | quote }}}
    {{- end }}
    {{- if and $head (eq "true" (include "training.autoscaling" .)) }}
    # What Kubernetes would mount in all containers, here for the autoscaler alone.
    - name: api-token
      projected:
        sources:
          - serviceAccountToken: {path: token, expirationSeconds: 3607}
          - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
          - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
    {{- end }}
{{- end }}
