"""Results in, documents out: pure functions."""
