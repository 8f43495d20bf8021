"""The model layer: bytes to a read-only view of the graph, and changes back to bytes."""
