{{- /* The name of everything the release's gateway consists of: RELEASE-gateway, at most 63 characters. */ -}}
{{- define "slipway.gateway" -}}
{{ .Release.Name | trunc 55 | trimSuffix "-" }}-gateway
{{- end }}

{{- /* The Service of its admin port, on which the operator reads what is held: port name `admin`. */ -}}
{{- define "slipway.gateway.admin" -}}
{{ include "slipway.gateway" . }}-metrics
{{- end }}

{{- define "slipway.gateway.selector" -}}
app.kubernetes.io/name: slipway-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "slipway.gateway.labels" -}}
{{ include "slipway.gateway.selector" . }}
app.kubernetes.io/component: gateway
app.kubernetes.io/part-of: slipway
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* The gateway's rights in the namespaces that it serves: to look, at two kinds. */ -}}
{{- define "slipway.gateway.rules" -}}
- apiGroups: [slipway.dev]
  resources: [llmdeployments]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
{{- end }}
