"""What several test modules lean on: test servers, nothing the package itself uses."""
