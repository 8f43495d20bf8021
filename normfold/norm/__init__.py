"""Norm operators that normalise with statistics of their input."""
