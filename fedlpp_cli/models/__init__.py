"""Base models: identify, open, round, and put an adapter on them."""
