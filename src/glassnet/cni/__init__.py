"""CNI, pure: configurations, address leases, what the bridge plugin does to a node and a pod, results."""
