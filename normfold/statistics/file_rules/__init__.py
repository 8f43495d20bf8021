"""What the file alone tells: one function for each code or family of codes, `(Subject, Thresholds) -> findings`."""
