"""Whole federations: the steps, carried from one to the next without files being sent around."""
