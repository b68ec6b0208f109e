"""Evaluation over many samples: data, metrics, runs, summaries."""
