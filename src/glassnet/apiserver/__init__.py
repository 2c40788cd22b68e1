"""The embedded Kubernetes-compatible API server, over SQLite."""
