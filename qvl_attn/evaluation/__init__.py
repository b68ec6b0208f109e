"""Many samples: data, metrics, runs, summaries."""
