"""Scores of models on held-out data."""
