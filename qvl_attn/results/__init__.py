"""Records, folders and exports that all kinds of results share."""
