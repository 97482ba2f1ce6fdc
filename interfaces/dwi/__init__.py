"""DWI runs: gradients, denoising, eddy currents, diffusion models."""
