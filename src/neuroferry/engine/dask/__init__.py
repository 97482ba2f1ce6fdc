"""The plugin Dask: a graph on a Dask cluster."""
