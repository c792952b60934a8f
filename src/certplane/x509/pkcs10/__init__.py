"""PKCS#10 certificate requests: parsing, verification, requested extensions, weak keys."""
