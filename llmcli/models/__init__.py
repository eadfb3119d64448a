"""The shared model-loading layer: names to files, files to weights."""
