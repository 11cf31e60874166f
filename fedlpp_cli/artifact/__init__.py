"""Files and folders that the parties exchange: read, write, verify, find, publish."""
