"""Routes between pod CIDRs, pure."""
