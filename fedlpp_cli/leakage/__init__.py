"""What artifacts give away beyond what they are for."""
