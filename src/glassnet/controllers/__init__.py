"""Controllers: one file each, pure functions (View, key, now) -> Result. See README.md."""
