"""The functional workflow."""
