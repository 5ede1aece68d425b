{{- define "training.rayPods" -}}
matchLabels:
  app.kubernetes.io/instance: {{ include "training.name" . | quote }}
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
    - {protocol: {{ $protocol | quote }}, port: {{ int64 $port }}}
    {{- end }}
    {{- end }}
{{- end }}
