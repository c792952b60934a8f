"""Certificates issued elsewhere: parsing, and path validation up to a trust anchor."""
