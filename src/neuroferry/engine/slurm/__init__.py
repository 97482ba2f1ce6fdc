"""The plugin SLURMGraph: a graph becomes job arrays that re-enter the image."""
