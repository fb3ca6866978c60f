"""One PDE, one file."""
