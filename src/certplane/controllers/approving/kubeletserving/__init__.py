"""Approval of kubelet serving certificates: evidence, rules, policy, and the controller."""
