"""Visual question answering: from a question about a picture or clip to its result and folder."""
