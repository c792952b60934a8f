"""Node objects for the kubelet-serving approver."""

from __future__ import annotations


class NodeInformer:
    """The part of an informer of Nodes that the approver uses."""

    def __init__(self, *nodes):
        self.objects = {node.metadata.name: node for node in nodes}

    def get(self, name):
        return self.objects.get(name)

    def put(self, node):
        self.objects[node.metadata.name] = node
