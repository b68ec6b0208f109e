"""From a path to upright RGB frames with true times. Knows no model."""
