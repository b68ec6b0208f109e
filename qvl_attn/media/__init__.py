"""From a path to upright RGB frames with their times. Depends on no model."""
