"""Measuring: models that say what stands in front of their normalisations, and the passes that run them."""
