{{- /* The name of everything the release's operator consists of: RELEASE-operator, at most 63 characters. */ -}}
{{- define "slipway.operator" -}}
{{- if hasSuffix "-operator" .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}{{ .Release.Name | trunc 54 | trimSuffix "-" }}-operator
{{- end }}
{{- end }}

{{- define "slipway.selector" -}}
app.kubernetes.io/name: slipway-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "slipway.labels" -}}
{{ include "slipway.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: slipway
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "slipway.serviceAccount" -}}
{{- if .Values.serviceAccount.name }}{{ .Values.serviceAccount.name }}
{{- else if .Values.serviceAccount.create }}{{ include "slipway.operator" . }}
{{- else }}{{ fail "serviceAccount.create is false: name an existing account in serviceAccount.name" }}
{{- end }}
{{- end }}

{{- /* The reference of a component's image: (list $ "engine" .Values.engine.image). */ -}}
{{- define "slipway.image" -}}
{{- $root := index . 0 -}}
{{- with index . 2 }}{{ . }}
{{- else }}{{ trimSuffix "/" $root.Values.image.registry }}/{{ index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{- /* NAMESPACE/NAME of the Service whose pods are asked for held requests; empty where there is none. */ -}}
{{- define "slipway.gatewayAsked" -}}
{{- if .Values.operator.gatewayService }}{{ .Values.operator.gatewayService }}
{{- else if .Values.gateway.enabled }}{{ .Release.Namespace }}/{{ include "slipway.gateway" . }}-metrics
{{- end }}
{{- end }}

{{- /* How the operator asks Prometheus, as JSON; empty where it asks the pods. */ -}}
{{- define "slipway.prometheus" -}}
{{- with .Values.prometheus }}
{{- if .url }}
{{- $asked := dict "url" .url "headers" .headers "tenant" .tenant "freshSeconds" .freshSeconds "namespaceLabel" .namespaceLabel "podLabel" .podLabel "queries" .queries -}}
{{- if .caConfigMap }}{{- $_ := set $asked "caFile" "/etc/slipway/prometheus-ca/ca.crt" }}{{- end }}
{{- if .tokenSecret }}{{- $_ := set $asked "tokenFile" "/etc/slipway/prometheus-token/token" }}
{{- else if .serviceAccountToken }}{{- $_ := set $asked "tokenFile" "/var/run/secrets/kubernetes.io/serviceaccount/token" }}
{{- end }}
{{- toJson $asked }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The operator's rights in the namespaces that it serves. Nothing on Secrets, nothing that it does not call. */ -}}
{{- define "slipway.rules" -}}
- apiGroups: [slipway.dev]
  resources: [llmdeployments]
  verbs: [get, list, watch]
- apiGroups: [slipway.dev]
  resources: [llmdeployments/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments, controllerrevisions]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- end }}

{{- /* Who may reach every engine beside its own group, as JSON: the operator, the gateway, Prometheus, and others. */ -}}
{{- define "slipway.admitted" -}}
{{- $here := dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace) -}}
{{- $operator := dict "namespaceSelector" $here "podSelector" (dict "matchLabels" (include "slipway.selector" . | fromYaml)) -}}
{{- $gateway := dict "namespaceSelector" $here "podSelector" (dict "matchLabels" (dict "app.kubernetes.io/name" "slipway-gateway")) -}}
{{- concat (list $operator $gateway) .Values.networkPolicy.prometheus .Values.networkPolicy.admit | toJson }}
{{- end }}

{{- /* The variables of the containers that fetch models, as JSON. */ -}}
{{- define "slipway.fetchEnvironment" -}}
{{- $variables := dict -}}
{{- with .Values.models }}
{{- with .endpoint }}{{- $_ := set $variables "HF_ENDPOINT" . }}{{- end }}
{{- with .s3 }}
{{- with .endpoint }}{{- $_ := set $variables "AWS_ENDPOINT_URL_S3" . }}{{- end }}
{{- with .region }}{{- $_ := set $variables "AWS_REGION" . }}{{- end }}
{{- end }}
{{- with .gsEndpoint }}{{- $_ := set $variables "STORAGE_EMULATOR_HOST" . }}{{- end }}
{{- with .httpsProxy }}{{- $_ := set $variables "HTTPS_PROXY" . }}{{- end }}
{{- with .noProxy }}{{- $_ := set $variables "NO_PROXY" . }}{{- end }}
{{- with .caBundle }}{{- $_ := set $variables "SLIPWAY_CA_BUNDLE" . }}{{- end }}
{{- end }}
{{- toJson $variables }}
{{- end }}
