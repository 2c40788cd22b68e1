"""Addresses, names and errors: what every other package stands on."""
