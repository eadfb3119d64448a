"""From a model's name to a folder: references, the cache, downloads."""
