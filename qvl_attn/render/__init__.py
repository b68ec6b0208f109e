"""Draws values as pictures, charts, video frames and HTML pages. Knows shapes and colours, not models."""
