"""Services -> rules, pure."""
