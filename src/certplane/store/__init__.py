"""Key-value stores with revisions, and the watch cache. They do not know objects."""
