"""Controllers that delete expired and answered requests, and expired bootstrap tokens."""
