"""What measured moments mean: effects, tests, verdicts, root causes and their names."""
