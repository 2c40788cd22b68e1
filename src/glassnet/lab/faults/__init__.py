"""Reproducible faults in a running lab: each a real change of the kernel or the API, each undone exactly."""
