"""What attackers make of everything that was distributed: tensors in, tensors out. No files, no models."""
