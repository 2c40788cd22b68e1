"""Load balancers carried out: addresses into Services' statuses, and announced by nodes."""
