"""What runs in the lab's pods without images: built-in servers in one event loop, real processes with the host's programs."""
