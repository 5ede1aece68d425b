{{- /* Environment of the Ray containers, the same on head and workers. How soon Ray Train notices things is in driver/ray_cluster.py. */}}
{{- define "training.env" -}}
{{- $recovery := .Values.recovery -}}
# The root file system is read-only: caches of Ray, PyTorch and Matplotlib go to /tmp.
- {name: HOME, value: /tmp}
- {name: TRAINER_STORAGE, value: {{ include "training.storage" . | quote }}}
{{- with .Values.storage.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.storage.region }}
- {name: AWS_REGION, value: {{ . | quote }}}
{{- end }}
{{- range $name, $value := .Values.storage.env }}
- {name: {{ $name | quote }}, value: {{ $value | quote }}}
{{- end }}
{{- with .Values.storage.caBundle }}
{{- if .configMap }}
# In place of the image's own list, so the bundle has all authorities that are trusted.
- {name: SSL_CERT_FILE, value: "{{ include "training.caBundlePath" $ }}/{{ .key }}"}
{{- end }}
{{- end }}
{{- with .Values.proxy }}
{{- if or .http .https }}
{{- range $name, $value := dict "HTTP_PROXY" .http "HTTPS_PROXY" .https "NO_PROXY" (join "," .noProxy) }}
{{- with $value }}
# Some programs read the one, some the other.
- {name: {{ $name | quote }}, value: {{ . | quote }}}
- {name: {{ lower $name | quote }}, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
# A run's last numbers stay until Prometheus has scraped them.
- {name: TRAINER_LAST_SCRAPE_S, value: {{ int64 .Values.job.lastScrapeSeconds | quote }}}
# Idle threads sleep: spinning ones would take the cores of the other workers on the node.
- {name: OMP_WAIT_POLICY, value: PASSIVE}
# /metrics is updated every 2 s instead of 10: a short run would end between two scrapes.
- {name: RAY_metrics_report_interval_ms, value: "2000"}
# CPU, memory, disk and network as often: Ray forgets what was not reported for two of those intervals, and its own 5 s
# here would leave a hole in one scrape of five.
- {name: REPORTER_UPDATE_INTERVAL_MS, value: "2000"}
# No usage statistics: network policies block them, and each start would wait for that.
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
# A process group with a dead member is given up after 10 s instead of 30.
- {name: TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S, value: "10"}
# How soon a lost node is noticed; on all pods, since each end has its own clock.
- {name: RAY_health_check_period_ms, value: {{ mul 1000 $recovery.healthCheck.periodSeconds | quote }}}
- {name: RAY_health_check_timeout_ms, value: {{ mul 1000 $recovery.healthCheck.timeoutSeconds | quote }}}
- {name: RAY_health_check_failure_threshold, value: {{ int64 $recovery.healthCheck.failures | quote }}}
# A stopped job gets Ctrl-C and half a minute: SIGTERM would leave its reservation for 180 s.
- {name: RAY_JOB_STOP_SIGNAL, value: SIGINT}
- {name: RAY_JOB_STOP_WAIT_TIME_S, value: "30"}
{{- end }}

{{- /* Seconds from SIGTERM to SIGKILL of a worker group's pods. */}}
{{- define "training.grace" -}}
{{- $own := .group.terminationGracePeriodSeconds }}
{{- kindIs "invalid" $own | ternary .root.Values.recovery.terminationGracePeriodSeconds $own | int64 }}
{{- end }}

{{- define "training.drain" -}}
{{- $grace := include "training.grace" . | int64 -}}
# On SIGTERM Ray drains the node for this long; it must end before SIGKILL comes.
- {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: {{ max (sub $grace 30) (div $grace 2) | quote }}}
{{- end }}

{{- /* What a pod is, for the record of a run: it has no token to ask. */}}
{{- define "training.podFacts" -}}
{{- $head := eq .component "head" -}}
- {name: TRAINER_GROUP, value: {{ $head | ternary "head" .group.name | quote }}}
- {name: TRAINER_SPOT, value: {{ .group.spot | default false | quote }}}
- {name: TRAINER_IMAGE, value: {{ include "training.image" .root | quote }}}
- {name: TRAINER_NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
# Kubernetes copies the zone to pods from 1.35 on; before, it is empty.
- {name: TRAINER_ZONE, valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}}
{{- with index (.group.nodeSelector | default dict) "node.kubernetes.io/instance-type" }}
- {name: TRAINER_INSTANCE_TYPE, value: {{ . | quote }}}
{{- end }}
{{- if and $head (eq .cluster "job") }}
{{- with include "training.prices" .root }}
# For the cost of a run. Not on the standing cluster, whose pods several runs share.
- {name: TRAINER_PRICES, value: {{ . | quote }}}
{{- with $.root.Values.budget.amount }}
- {name: TRAINER_BUDGET, value: {{ . | quote }}}
- {name: TRAINER_BUDGET_STOP, value: {{ $.root.Values.budget.stop | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Prices of head and worker groups as the driver reads them (JSON), or nothing: a cost of only some pods would mislead. */}}
{{- define "training.prices" -}}
{{- $prices := dict "head" .Values.head.price }}
{{- range fromYaml (include "training.groups" .) }}
{{- $_ := set $prices .name .price }}
{{- end }}
{{- $without := list }}
{{- $currencies := list }}
{{- range $name, $price := $prices }}
{{- if $price.perHour }}
{{- /* `helm --set` makes strings of fractions */}}
{{- $_ := set $prices $name (merge (dict "perHour" (float64 $price.perHour)) $price) }}
{{- $currencies = append $currencies ($price.currency | default "USD") | uniq }}
{{- else }}
{{- $without = append $without (eq $name "head" | ternary "head.price" (printf "workerGroups.%s.price" $name)) }}
{{- end }}
{{- end }}
{{- if and $currencies $without }}
{{- fail (printf "%s: not set, while other pods have a price; set it, or no price at all" (join ", " $without)) }}
{{- end }}
{{- if gt (len $currencies) 1 }}
{{- fail (printf "price.currency: %s; use one for all groups" (join " and " $currencies)) }}
{{- end }}
{{- if and .Values.budget.amount (not $currencies) }}
{{- fail "budget.amount: without prices no cost is known; set head.price and the price of each worker group" }}
{{- end }}
{{- if $currencies }}
{{- dict "currency" (first $currencies) "groups" $prices | toRawJson }}
{{- end }}
{{- end }}
