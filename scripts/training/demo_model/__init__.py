"""How the embedded model is made: its vocabulary and geometry, what it is shown, its losses and its training."""
