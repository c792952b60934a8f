"""Settings of the commands that run for long: parsed and judged once, each with a safe default.

A command has one list of its settings, `OPTIONS`: its flags, its configuration file and the reference page are made
from it. A setting has the name that kube-apiserver or kube-controller-manager gives it, if they have it. Flags win over
the file.
"""
