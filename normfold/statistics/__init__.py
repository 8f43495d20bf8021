"""Do the stored statistics of a model fit what it is run on? What `check` and `recalibrate` are made of."""
