"""The interactive HTML page beside every result: its data is packed here, its scripts and styles are in `assets/`."""
