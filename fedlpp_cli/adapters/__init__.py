"""The tensors of an adapter: names, shapes, first values, PEFT's names for them."""
