"""Reads a dataset into plain values and names the outputs."""
