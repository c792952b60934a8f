"""Bytes under keys, with revisions. Knows nothing of objects."""
