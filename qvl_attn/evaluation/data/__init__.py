"""Rows and samples of data sets, and sets of questions."""
