"""A planned change of the primary: what is held for it, what must be true before it, and its phases."""
