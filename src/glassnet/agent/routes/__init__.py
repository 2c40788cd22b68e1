"""Routes between pod CIDRs: of a node, and of a lab's VPC router."""
