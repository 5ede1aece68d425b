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

{{- /* The groups of rules/*.yaml as JSON, with the values in them. Those are Prometheus' own rule files, and their {{ }}
is Prometheus'; what they leave open is ${name}. */}}
{{- define "monitoring.groups" -}}
{{- $alerts := .Values.alerts }}
{{- $groups := list }}
{{- if $alerts.enabled }}
{{- $open := merge (dict "cluster" $alerts.clusterLabel "hash" "[bcdfghjklmnpqrstvwxz2-9]{5}") $alerts.thresholds }}
{{- range $path, $_ := .Files.Glob "rules/*.yaml" }}
{{- $text := $.Files.Get $path }}
{{- range $name, $value := $open }}
{{- $text = replace (printf "${%s}" $name) (kindIs "string" $value | ternary $value (toJson $value)) $text }}
{{- end }}
{{- range $group := (fromYaml $text).groups }}
{{- $rules := list }}
{{- range $rule := $group.rules }}
{{- with $rule.alert }}
{{- $own := get $alerts.override . | default dict }}
{{- $_ := set $rule "for" ($own.for | default $rule.for | default "0s") }}
{{- $_ := set $rule.labels "severity" ($own.severity | default $rule.labels.severity) }}
{{- $_ := merge $rule.labels $alerts.labels }}
{{- $_ := set $rule.annotations "runbook_url" (printf "%s#%s" $alerts.runbookUrl (lower .)) }}
{{- end }}
{{- if not (has $rule.alert $alerts.disabled) }}
{{- $rules = append $rules $rule }}
{{- end }}
{{- end }}
{{- if $rules }}
{{- $groups = append $groups (dict "name" $group.name "rules" $rules) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $groups }}
{{- end }}
