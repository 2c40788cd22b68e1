"""Ingress on NGINX: the server's process, its configuration, and the loop that keeps it at what the API has."""
