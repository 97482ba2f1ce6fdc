"""The anatomical workflow."""
