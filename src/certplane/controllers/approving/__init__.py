"""Controllers that approve certificate requests."""
