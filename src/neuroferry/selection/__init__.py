"""Decisions about the processing of each participant, made once, as plain values."""
