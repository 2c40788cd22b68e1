"""The lab: a whole cluster network on one machine, out of namespaces."""
