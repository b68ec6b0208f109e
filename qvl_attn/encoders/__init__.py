"""Vision encoders without a language model: load, capture, embed, explain, draw, save."""
