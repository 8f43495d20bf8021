"""Plan and apply: what is decided about every site, and what the changed graph looks like."""
