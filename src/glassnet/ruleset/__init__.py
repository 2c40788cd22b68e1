"""Rules as values: one vocabulary for what is written and what is read."""
