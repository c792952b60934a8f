"""The Kubernetes Certificates API as software of its own."""

__version__ = "0.1.0"
