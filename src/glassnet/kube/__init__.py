"""Kubernetes API objects as glassnet needs them: narrow types, selectors, the View, changes as values."""
