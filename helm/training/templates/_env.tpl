{{- /* Environment of the Ray containers: the same on head and workers, since Ray hands most of it on by neither. */}}
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
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
# A run's last numbers are there until Prometheus has come by.
- {name: TRAINER_LAST_SCRAPE_S, value: {{ .Values.job.lastScrapeSeconds | quote }}}
# Idle threads sleep: spinning ones would take the cores of the other workers on the node.
- {name: OMP_WAIT_POLICY, value: PASSIVE}
# /metrics is new every 2 s, not every 10: a short run would end between two scrapes.
- {name: RAY_metrics_report_interval_ms, value: "2000"}
# No statistics to Ray's makers: the policies let none out, and each start would wait for that.
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
# A report waits for the controller's next look at the workers: 0.5 s instead of 2.
- {name: RAY_TRAIN_HEALTH_CHECK_INTERVAL_S, value: "0.5"}
# A frozen worker is replaced after one minute instead of ten.
- {name: RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S, value: "60"}
# Training learns of a node's last minute within a second instead of five.
- {name: RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S, value: "1"}
# A process group with a dead member is given up after 10 s instead of 30.
- {name: TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S, value: "10"}
# On SIGTERM Ray drains the node for this long; it must end before SIGKILL comes.
- {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: {{ sub $recovery.terminationGracePeriodSeconds 30 | quote }}}
# How soon a lost node is noticed; on all pods, since each end has its own clock.
- {name: RAY_health_check_period_ms, value: {{ mul 1000 $recovery.healthCheck.periodSeconds | quote }}}
- {name: RAY_health_check_timeout_ms, value: {{ mul 1000 $recovery.healthCheck.timeoutSeconds | quote }}}
- {name: RAY_health_check_failure_threshold, value: {{ $recovery.healthCheck.failures | quote }}}
# A stopped job gets Ctrl-C and half a minute: SIGTERM would leave its reservation for 180 s.
- {name: RAY_JOB_STOP_SIGNAL, value: SIGINT}
- {name: RAY_JOB_STOP_WAIT_TIME_S, value: "30"}
{{- end }}
