"""The Click command line: parse, call, render."""
