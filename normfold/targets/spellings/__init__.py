"""One module per operator: how a norm is written with it."""
