"""What is shown on a terminal goes through this; it is of the lowest level, as pages need it too."""

from fedlpp_cli.printable import printable

__all__ = ["printable"]
