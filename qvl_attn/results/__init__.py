"""What every kind of result shares."""
