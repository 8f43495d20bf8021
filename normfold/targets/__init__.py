"""Deployment targets: which operator has a real kernel where, and what each norm becomes there."""
