"""Explains a CertificateSigningRequest: what it asks for, where it stands, what it waits for, and what to do."""
