"""What the records of --json hold, as types; docs/schemas has the same as JSON schemas."""
