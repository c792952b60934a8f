"""The names of the signers of Kubernetes. The settings, the profiles and the default roles all refer to them.

Source: kubernetes, `staging/src/k8s.io/api/certificates/v1/types.go`.
"""

from __future__ import annotations

from typing import Final

KUBE_APISERVER_CLIENT: Final = "kubernetes.io/kube-apiserver-client"
KUBE_APISERVER_CLIENT_KUBELET: Final = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING: Final = "kubernetes.io/kubelet-serving"
LEGACY_UNKNOWN: Final = "kubernetes.io/legacy-unknown"
#: All of them.
BUILT_IN: Final = (KUBE_APISERVER_CLIENT, KUBE_APISERVER_CLIENT_KUBELET, KUBELET_SERVING, LEGACY_UNKNOWN)
