"""From the scanner to a BIDS dataset: what arrives, what it is, where it goes."""
