"""Log-likelihoods to named numbers."""
