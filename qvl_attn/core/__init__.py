"""Values, errors, text, files, progress: what every wing needs. Knows no model, picture or page."""
