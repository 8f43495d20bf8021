"""The report: one value, many renderings."""
