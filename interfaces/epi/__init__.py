"""Echo-planar series, BOLD and DWI alike: motion, distortion, coregistration."""
