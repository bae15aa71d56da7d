"""Looks at a run's training that change nothing of it: with or without them its rows and its state are bit-equal."""
