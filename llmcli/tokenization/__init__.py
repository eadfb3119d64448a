"""Text to tokens and back, exact to the byte."""
