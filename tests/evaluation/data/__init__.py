"""Tests of `evaluation/data/`."""
