"""Renderings of a `CheckReport` for pipelines and for people: SARIF, JUnit, GitHub annotations, HTML. Nothing is computed."""
