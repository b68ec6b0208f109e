"""One HTML file beside every result, to be played with: what it holds is packed here, its behaviour is in `assets/`."""
