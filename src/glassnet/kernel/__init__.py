"""Every touch of the kernel: namespaces, netlink, iptables, nftables, sysctls, mounts, processes. Nothing above this package does any."""
