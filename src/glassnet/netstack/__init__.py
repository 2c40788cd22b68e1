"""Links, addresses, routes, neighbours, sysctls as values: the vocabulary for what we write and what we read."""
