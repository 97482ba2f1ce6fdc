"""One run, from settings to exit code."""
