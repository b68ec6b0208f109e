"""Rows and samples of data sets, and question sets."""
