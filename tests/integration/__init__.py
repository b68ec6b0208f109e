"""Tests across wings."""
