"""From values to pixels and pages. Knows shapes and colours, not models."""
