"""What each command does, as a request and its answer: no terminal, no flags."""
