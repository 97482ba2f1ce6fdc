"""T1w images: averaging, brain extraction, segmentation, normalisation."""
