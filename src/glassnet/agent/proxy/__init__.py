"""The Service proxy of a node: the loop, and all around it."""
