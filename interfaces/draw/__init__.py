"""Reportlets: the pictures and charts of the report, one interface each."""
