"""Converters from other formats to the JSONL that `qvl-attn check` reads."""
