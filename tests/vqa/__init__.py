"""Tests of `vqa`."""
