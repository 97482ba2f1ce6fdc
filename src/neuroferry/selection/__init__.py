"""Decides what is done with each participant, once, as a value that everything else reads."""
