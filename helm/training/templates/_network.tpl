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

{{- /* The API server's addresses and port, as values say or else the cluster. Without either, as with helm template, it is
taken to be in a private network. */}}
{{- define "training.apiServer" -}}
{{- $rule := .Values.network.apiServer }}
{{- if not $rule.to }}
{{- $slice := lookup "discovery.k8s.io/v1" "EndpointSlice" "default" "kubernetes" | default dict }}
{{- $addresses := list }}
{{- range $slice.endpoints }}
{{- $addresses = concat $addresses .addresses }}
{{- end }}
{{- $ports := list }}
{{- range $slice.ports }}
{{- $ports = append $ports (int64 .port) }}
{{- end }}
{{- $blocks := list }}
{{- range $addresses | uniq | sortAlpha }}
{{- $blocks = append $blocks (dict "ipBlock" (dict "cidr" (printf "%s/%s" . (contains ":" . | ternary "128" "32")))) }}
{{- end }}
{{- if not $blocks }}
{{- range list "10.0.0.0/8" "172.16.0.0/12" "192.168.0.0/16" }}
{{- $blocks = append $blocks (dict "ipBlock" (dict "cidr" .)) }}
{{- end }}
{{- /* without the metadata server of AWS */}}
{{- $blocks = append $blocks (dict "ipBlock" (dict "cidr" "fc00::/7" "except" (list "fd00:ec2::/32"))) }}
{{- end }}
{{- $rule = dict "to" $blocks "ports" ($ports | uniq | default $rule.ports) }}
{{- end }}
{{- toYaml $rule }}
{{- end }}
