"""Rotation of certificates on a host or beside a workload, as the kubelet does it."""
