"""Tractography, white matter bundles and profiles along them."""
