"""The anatomical workflow."""

from neuroferry.workflows.anat.fit import init_anat_wf

__all__ = ["init_anat_wf"]
