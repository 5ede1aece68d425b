{{- /* Ports, probes and resources of a Ray container. */}}
{{- define "training.ports" -}}
ports:
  - {name: metrics, containerPort: 8080}
  {{- if eq .component "head" }}
  - {name: gcs-server, containerPort: 6379}
  - {name: dashboard, containerPort: 8265}
  - {name: dash-metrics, containerPort: 44227}
  {{- if eq "true" (include "training.autoscaling" .) }}
  - {name: as-metrics, containerPort: 44217}
  {{- end }}
  {{- end }}
{{- end }}

{{- /* As KubeRay's own, but the start is looked at every second from the first on (KubeRay: after 10 s, every 5), and
a node that hangs is ended after 2 minutes instead of 10. */}}
{{- define "training.probes" -}}
startupProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 300
readinessProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 5
livenessProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 24
{{- end }}

{{- define "training.resources" -}}
{{- $device := dict }}
{{- with .accelerator }}
{{- if .resource }}
{{- $_ := set $device .resource .count }}
{{- end }}
{{- end -}}
requests:
  {{- toYaml (merge (deepCopy $device) .resources.requests) | nindent 2 }}
limits:
  {{- toYaml (merge (deepCopy $device) .resources.limits) | nindent 2 }}
{{- end }}
