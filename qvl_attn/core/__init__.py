"""Values, errors, text, files and progress, used by every other part. Depends on no model, picture or page."""
