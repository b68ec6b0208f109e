"""Compute maps and their scores from captured attention rows and signals."""
