"""What goes in and out: sources of text, records, prompts, files."""
