"""Licences of what the image holds and of what takes part in a result."""
