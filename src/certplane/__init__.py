"""The Kubernetes Certificates API without a cluster."""

__version__ = "0.1.0"
#: The release of Kubernetes whose API is served.
API_VERSION = "1.36.2"
