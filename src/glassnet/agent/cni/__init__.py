"""CNI on a node: plugins carried out, their programs and socket, leases, rules that come back."""
