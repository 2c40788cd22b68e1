"""Addresses of Services of type LoadBalancer, pure: pools, who has which address, which node announces it and how."""
