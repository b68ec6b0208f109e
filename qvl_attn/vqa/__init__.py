"""One question, one result."""
