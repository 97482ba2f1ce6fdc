"""HTML pages from the run record and the derivatives."""
