"""The one process of a node: its parts together, their configuration, what it says of itself."""
