"""Controllers that publish the CA certificate of the API server in the cluster."""
