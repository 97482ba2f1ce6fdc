"""The T1w image: averaging, brain extraction, segmentation, normalisation."""
