"""BIDS-aware Nipype workflows in one Apptainer image, from the laptop to the cluster."""

__version__ = "0.1.0"
