"""What a person sees and a pipe gets."""
