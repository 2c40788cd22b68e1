"""A cloud's load balancer at the edge of a VPC, pure: Services and healthy nodes in, rules and routes of the machine that plays it out."""
