"""The command line: parse, call one step, render its result."""
