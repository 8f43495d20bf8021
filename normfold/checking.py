"""`check`: what is wrong with the normalisation state of a model, from the file, with data, against a reference."""
