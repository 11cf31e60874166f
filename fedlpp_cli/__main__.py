"""`python -m fedlpp_cli` is `fedlpp`."""

from fedlpp_cli.cli.app import main

main()
