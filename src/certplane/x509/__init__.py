"""PKI. Pure: bytes, values and a time in; knows nothing of Kubernetes objects."""
