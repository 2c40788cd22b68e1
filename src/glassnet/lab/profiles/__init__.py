"""Profiles: which cluster a lab is; one declarative file each."""
