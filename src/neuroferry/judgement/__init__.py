"""From metrics to verdicts: limits, outliers, ratings, drift.

One table per modality (`tables`) is judged by rules (`rules`), by what people said of the images
(`ratings`) and, where one was learned, by a model (`model`). `verdicts` brings these together;
`drift` follows a scanner over time. Nothing here reads an image: all of it is applied again in
seconds.
"""
