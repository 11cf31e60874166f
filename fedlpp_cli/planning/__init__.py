"""Before a federation: which setting gives the least away for what it costs."""
