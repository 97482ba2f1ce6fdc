"""One step each: a Nipype interface over one tool or one function."""
