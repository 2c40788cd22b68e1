"""A client of a real kube-apiserver: how to reach it, its verbs, and watches that feed a View."""
