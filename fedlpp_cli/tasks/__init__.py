"""From rows of data to token ids and labels."""
