"""Worked examples that come with the project, not part of the package."""
