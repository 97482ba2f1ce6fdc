"""Runs Nipype graphs: resources, the plugins, the run record."""
