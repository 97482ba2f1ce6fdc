"""Nipype interfaces: one step each, around one tool or one function."""
