"""Workflow builders: one Nipype graph per file."""
