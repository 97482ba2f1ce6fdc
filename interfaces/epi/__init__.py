"""Echo-planar images (BOLD and DWI): head motion, distortion, coregistration."""
