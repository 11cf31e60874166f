"""One function for each command: fetch, verify, compute, write, return a frozen result."""
