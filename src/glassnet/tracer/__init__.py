"""Reads a node's real rules, routes and connections, and says where a packet goes, by which rule and on whose behalf."""
