"""From updates to the next adapter."""
