"""Checkpoints, prompts, token positions, and the capture of attention."""
