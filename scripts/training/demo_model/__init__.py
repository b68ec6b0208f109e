"""The training of the embedded model: vocabulary, geometry, training data, losses, optimizer and evaluation."""
