"""Models whose normalisations are folded: what is recorded of them, and how they are examined all the same (§10)."""
