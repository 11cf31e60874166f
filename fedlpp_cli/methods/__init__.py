"""Published answers to the same problem: one small file for each, and a table of them."""
