{{- define "slipway.monitoring.labels" -}}
{{ include "slipway.labels" . }}
{{- with .Values.metrics.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Where a PodMonitor looks for engines: in the namespaces that are served. */ -}}
{{- define "slipway.monitoring.namespaces" -}}
namespaceSelector:
  {{- with .Values.watchNamespaces }}
  matchNames:
    {{- toYaml . | nindent 4 }}
  {{- else }}
  any: true
  {{- end }}
{{- end }}
