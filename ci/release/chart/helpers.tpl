{{/* A setting as its text: a list as JSON, a number without an exponent. */}}
{{- define "stepwright.setting" -}}
{{- if kindIs "float64" . }}{{ if eq . (floor .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- else if kindIs "slice" . }}{{ toJson . }}
{{- else }}{{ . }}{{ end }}
{{- end }}

{{/* The image of a step: list <root> <step>. */}}
{{- define "stepwright.image" -}}
{{- $root := index . 0 }}{{ $step := index . 1 }}{{ $images := $root.Values.images -}}
{{ $images.registry }}/{{ $step }}:
{{- if $images.tag }}{{ $images.tag }}
{{- else }}{{ $root.Chart.AppVersion }}{{ with index $images.digests $step }}@{{ . }}{{ end }}
{{- end }}
{{- end }}
