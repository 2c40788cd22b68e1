"""Cluster DNS on Knot DNS: the server's process, its control socket, and the loop that keeps its records."""
