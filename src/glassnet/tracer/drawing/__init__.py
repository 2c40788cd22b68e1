"""Pictures of a network and of ways through it."""
