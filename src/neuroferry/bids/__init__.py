"""Reading of BIDS datasets into plain values, and names of the outputs."""
