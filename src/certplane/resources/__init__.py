"""One file per kind: shape, validation, life-cycle, columns, subresources."""
