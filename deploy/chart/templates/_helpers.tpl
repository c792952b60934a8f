{{- define "certplane.fullname" -}}
{{- $default := ternary .Release.Name (printf "%s-certplane" .Release.Name) (contains "certplane" .Release.Name) -}}
{{- default $default .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "certplane.name" -}}
{{- include "certplane.fullname" . }}{{ if eq .Values.mode "controllers" }}-controllers{{ end -}}
{{- end -}}

{{- define "certplane.selector" -}}
app.kubernetes.io/name: certplane
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.mode }}
{{- end -}}

{{- define "certplane.metadata" -}}
name: {{ include "certplane.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "certplane.labels" . | nindent 2 }}
{{- end -}}

{{- define "certplane.labels" -}}
{{ include "certplane.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "certplane.config" -}}
{{- if eq .Values.mode "controllers" -}}
{{ include "certplane.config.controllers" . }}
{{- else -}}
{{ include "certplane.config.standalone" . }}
{{- end }}
log-level: {{ .Values.logLevel }}
{{- end -}}

{{- define "certplane.config.controllers" -}}
controllers:
{{- range .Values.controllers }}
- {{ . }}
{{- end }}
{{- if include "certplane.ruled" . }}
- signer-rule-approver
{{- end }}
{{- if .Values.servingApprover }}
- kubelet-serving-approver
serving-approver: /etc/certplane/config/serving-approver.yaml
{{- end }}
{{- range $signer, $_ := .Values.ca.signers }}
cluster-signing-{{ $signer }}-cert-file: /etc/certplane/ca/{{ $signer }}/tls.crt
cluster-signing-{{ $signer }}-key-file: /etc/certplane/ca/{{ $signer }}/tls.key
{{- else }}
{{- if .Values.ca.secretName }}
cluster-signing-cert-file: /etc/certplane/ca/tls.crt
cluster-signing-key-file: /etc/certplane/ca/tls.key
{{- end }}
{{- end }}
cluster-signing-duration: {{ .Values.signingDuration }}
{{- if .Values.signers }}
signers: /etc/certplane/config/signers.yaml
{{- end }}
leader-elect: {{ .Values.leaderElection.enabled }}
leader-elect-resource-name: {{ include "certplane.name" . }}
leader-elect-lease-duration: {{ .Values.leaderElection.leaseDuration }}
leader-elect-renew-deadline: {{ .Values.leaderElection.renewDeadline }}
leader-elect-retry-period: {{ .Values.leaderElection.retryPeriod }}
kube-api-qps: {{ .Values.kubeAPI.qps }}
kube-api-burst: {{ .Values.kubeAPI.burst }}
listen-health: 0.0.0.0:10257
{{- end -}}

{{- define "certplane.config.standalone" -}}
{{- $name := include "certplane.name" . -}}
{{- $home := printf "%s.%s" $name .Release.Namespace -}}
data-dir: /var/lib/certplane/data
listen: 0.0.0.0:6443
tls-san:
{{- range concat (list $name $home (printf "%s.svc" $home) (printf "%s.svc.cluster.local" $home)) .Values.standalone.tlsSANs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- /* What the pods of both modes have in common. */ -}}
{{- define "certplane.pod" -}}
serviceAccountName: {{ include "certplane.name" . }}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "certplane.pod.metadata" -}}
annotations:
  checksum/config: {{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}
  {{- with .Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
labels:
  {{- include "certplane.selector" . | nindent 2 }}
  {{- with .Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "certplane.pod.security" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "certplane.image" -}}
{{- with .Values.image -}}
{{- .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "certplane.container" -}}
image: {{ include "certplane.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
- {{ ternary "controllers" "serve" (eq .Values.mode "controllers") }}
- --config=/etc/certplane/config/config.yaml
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
resources:
  {{- toYaml .Values.resources | nindent 2 }}
{{- end -}}

{{- /* Takes the port's name and the scheme. */ -}}
{{- define "certplane.probes" -}}
livenessProbe:
  httpGet:
    path: /livez
    port: {{ .port }}
    scheme: {{ .scheme }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ .port }}
    scheme: {{ .scheme }}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}

{{- /* Signers of one's own that say whose requests need no person. */ -}}
{{- define "certplane.ruled" -}}
{{- range .Values.signers }}
{{- if .approval }}
- {{ .name }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The names of the signers that sign. certificates.k8s.io/v1 takes no requests for legacy-unknown. */ -}}
{{- define "certplane.signers" -}}
{{- $names := dict
  "kube-apiserver-client" "kubernetes.io/kube-apiserver-client"
  "kubelet-client" "kubernetes.io/kube-apiserver-client-kubelet"
  "kubelet-serving" "kubernetes.io/kubelet-serving" -}}
{{- $own := .Values.ca.signers -}}
{{- $all := and (not $own) .Values.ca.secretName -}}
{{- range $infix, $name := $names }}
{{- if or $all (hasKey $own $infix) }}
- {{ $name }}
{{- end }}
{{- end }}
{{- range .Values.signers }}
- {{ .name }}
{{- end }}
{{- end -}}
