"""The verbs of the API, once for all kinds."""
