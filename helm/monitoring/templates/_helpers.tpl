{{- define "monitoring.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/part-of: fashion-mnist-on-ray
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "monitoring.scrape" -}}
path: /metrics
{{- with .Values.interval }}
interval: {{ . | quote }}
{{- end }}
{{- with .Values.scrapeTimeout }}
scrapeTimeout: {{ . | quote }}
{{- end }}
metricRelabelings:
  {{- with .Values.dropMetrics }}
  - {action: drop, sourceLabels: [__name__], regex: {{ . | quote }}}
  {{- end }}
  {{- with .Values.dropLabels }}
  - {action: labeldrop, regex: {{ join "|" . | quote }}}
  {{- end }}
{{- end }}
