"""Which part of a graph works channels-last, because the kernels of its norms want that."""
