"""Images, transforms and grids, whatever the modality."""
