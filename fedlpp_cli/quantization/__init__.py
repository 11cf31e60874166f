"""Tensors in, codes and scales out, and back."""
