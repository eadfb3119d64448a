"""A loaded model to tokens: decoding, sampling, stopping."""
