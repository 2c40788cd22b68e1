"""What runs once in a cluster: the control plane of a lab, and the controller with its leader."""
