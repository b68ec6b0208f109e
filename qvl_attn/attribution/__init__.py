"""From captured rows to maps: arrays in, arrays out."""
