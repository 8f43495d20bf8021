"""Repairing statistics: estimate layer by layer, write, judge on data that was held out, and be able to go back (§11)."""
