"""Numbers for people and headers."""


def six_digits(value: float) -> float:
    """The value to six significant digits.

    Sums over threads differ in their last bits; headers must not.
    """
    return float(f"{value:.6g}")
