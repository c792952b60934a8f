"""Encoding and decoding of objects as JSON and protobuf, like a Kubernetes API server."""
