"""Controllers that delete expired and finished requests, and expired bootstrap tokens."""
