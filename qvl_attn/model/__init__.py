"""Checkpoints, prompts, where tokens are, and how attention is captured."""
