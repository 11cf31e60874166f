"""A run, or reports about it, as one page: figures are data, drawn without a library and without a script."""
