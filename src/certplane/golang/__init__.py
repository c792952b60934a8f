"""Go's parsing and formatting, as far as clients can see it: JSON, YAML, ASN.1, PEM, URLs, fmt verbs."""
