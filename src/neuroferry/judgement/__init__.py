"""From metrics to verdicts: limits, outliers, ratings, drift."""
