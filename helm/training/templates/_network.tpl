{{- define "training.rayPods" -}}
matchLabels:
  app.kubernetes.io/instance: {{ include "training.name" . }}
  app.kubernetes.io/part-of: fashion-mnist-on-ray
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: [head, worker]}
{{- end }}

{{- define "training.egress" -}}
- to:
    {{- toYaml .rule.to | nindent 4 }}
  ports:
    {{- range $protocol := .protocols }}
    {{- range $port := $.rule.ports }}
    - {protocol: {{ $protocol }}, port: {{ $port }}}
    {{- end }}
    {{- end }}
{{- end }}
