"""Cluster DNS: objects -> records -> what the server is told. Pure."""
