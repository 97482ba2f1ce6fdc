"""Digital brains whose truth is known."""
