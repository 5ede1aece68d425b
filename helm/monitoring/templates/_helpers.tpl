{{- define "monitoring.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: fashion-mnist-on-ray
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "monitoring.scrape" -}}
path: /metrics
{{- with .Values.interval }}
interval: {{ . }}
{{- end }}
{{- with .Values.scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
metricRelabelings:
  {{- with .Values.dropMetrics }}
  - {action: drop, sourceLabels: [__name__], regex: {{ . | quote }}}
  {{- end }}
  {{- with .Values.dropLabels }}
  - {action: labeldrop, regex: {{ join "|" . | quote }}}
  {{- end }}
{{- end }}
