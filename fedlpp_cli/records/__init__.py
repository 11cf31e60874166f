"""What artifacts and settings say: frozen, validated records."""
