"""The learning rate that fits an encoder, for `train.py --learning_rate auto`.

Measured: four encoders of width 384 with 4, 6 and 12 layers, over three seeds (docs/encoders.md has the table). The
best rates fall with about the cube root of the depth. Not measured: other widths. The square of the width is what leads
from the rate measured for 12 x 384 to those that are usual for 12 x 768 (2e-5 to 5e-5: Devlin and others, 2019, BERT)
and 24 x 1024. Narrower ones get no more than the highest rate that Turc and others (2019, Well-Read Students Learn
Better) tried with theirs.
"""

from logging import Logger

AUTO = "auto"
LOW = 3  # times less than what fits is worth a warning

MEASURED_RATE, MEASURED_LAYERS, MEASURED_WIDTH = 1.7e-4, 6, 384
PER_LAYERS, PER_WIDTH = 1 / 3, 2
HIGHEST = 3e-4
FROM_SCRATCH, SCRATCH_WIDTH = 1e-3, 128  # measured with 2 layers x 128


def fitting_rate(layers: int, width: int, pretrained: bool) -> float:
    """The peak rate that fits an encoder of so many layers and so large a hidden size, to one digit.

    pretrained: whether it has weights to start from; random numbers want and bear more.
    """
    if not pretrained:
        return one_digit(FROM_SCRATCH * min(1, SCRATCH_WIDTH / width))
    rate = MEASURED_RATE * (MEASURED_LAYERS / layers) ** PER_LAYERS * (MEASURED_WIDTH / width) ** PER_WIDTH
    return one_digit(min(HIGHEST, rate))


def settled_rate(asked: float | str, layers: int, width: int, pretrained: bool, logger: Logger) -> float:
    """The rate of --learning_rate as a number, which is the fitting one if it is auto; says so, or that it is low."""
    fitting = fitting_rate(layers, width, pretrained)
    size = f"{'a pre-trained encoder' if pretrained else 'a start from scratch'} of {layers} layers x {width}"
    if isinstance(asked, str):
        logger.info(f"--learning_rate auto: {fitting:g}, for {size} (docs/encoders.md has the measurements)")
        return fitting
    if asked * LOW <= fitting:
        logger.warning(
            f"--learning_rate {asked:g} is low for {size}: it will learn slowly, and may not get far. "
            f"--learning_rate auto takes {fitting:g}"
        )
    return asked


def one_digit(number: float) -> float:
    """1.7e-4 -> 2e-4."""
    return float(f"{number:.0e}")
