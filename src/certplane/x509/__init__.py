"""PKI. Pure: the input is bytes, values and a time; nothing here knows Kubernetes objects."""
