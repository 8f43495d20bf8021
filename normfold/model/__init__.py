"""The model layer: bytes to a read-only graph view, and edits back to bytes and files."""
