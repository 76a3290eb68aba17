"""The learning rate that fits an encoder, for `train.py --learning_rate auto`."""

AUTO = "auto"
LOW = 4  # times less than what fits is worth a warning

# Measured with encoders of width 384 (docs/encoders.md has the table); per layer and per width the rate falls as here.
MEASURED_RATE, MEASURED_LAYERS, MEASURED_WIDTH = 2e-4, 6, 384
PER_LAYERS, PER_WIDTH = 0.5, 1.5
FROM_SCRATCH = 1e-3  # of 2 layers x 128
SCRATCH_WIDTH = 128


def fitting_rate(layers: int, width: int, pretrained: bool) -> float:
    """The peak rate that fits an encoder of so many layers and so large a hidden size, to one digit.

    pretrained: whether it has weights to start from; random numbers want and bear more.
    """
    if not pretrained:
        return one_digit(FROM_SCRATCH * min(1, SCRATCH_WIDTH / width))
    return one_digit(MEASURED_RATE * (MEASURED_LAYERS / layers) ** PER_LAYERS * (MEASURED_WIDTH / width) ** PER_WIDTH)


def one_digit(number: float) -> float:
    """1.7e-4 -> 2e-4."""
    return float(f"{number:.0e}")
