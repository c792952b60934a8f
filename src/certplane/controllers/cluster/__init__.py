"""Controllers of namespaces, their default service accounts, and aggregated ClusterRoles."""
