"""The diffusion workflow."""
