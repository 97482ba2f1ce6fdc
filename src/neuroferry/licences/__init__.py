"""Licences of the image's packages, and of the tools used for a result."""
