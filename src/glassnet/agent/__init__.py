"""Every loop and all wiring: what happens when, on which machine. Decisions are made below, in pure code."""
