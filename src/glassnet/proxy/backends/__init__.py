"""How the computed model is spelled for each kind of rules."""
