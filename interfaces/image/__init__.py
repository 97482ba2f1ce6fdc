"""Images, transforms and grids of any modality."""
