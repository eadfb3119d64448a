"""What a model does inside: attention, layers, influences, as a request and its answer."""
