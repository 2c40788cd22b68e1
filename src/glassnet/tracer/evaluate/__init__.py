"""The exact engine: what the kernel's packet filter, connection tracking and routing do with a packet, rule by rule."""
