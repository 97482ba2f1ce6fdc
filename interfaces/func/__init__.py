"""BOLD runs: reference, slice timing, echoes, resampling, confounds."""
