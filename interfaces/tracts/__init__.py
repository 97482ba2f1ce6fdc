"""Tractography, bundles of white matter and profiles along them."""
