"""Methods that turn captured attention and signals into a map, one per file."""
