{{- define "siglip.name" -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "siglip.selector" -}}
app.kubernetes.io/name: siglip
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "siglip.labels" -}}
{{ include "siglip.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "siglip.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if .Values.gpus }}
{{- $gpus := dict .Values.gpuResource (.Values.gpus | toString) }}
{{- $resources = mergeOverwrite $resources (dict "requests" $gpus "limits" $gpus) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}
