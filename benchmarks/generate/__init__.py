"""Models made here: small ones that tell folders apart, and large ones for the scale goals."""
