"""Application: one run, from settings to exit code."""
