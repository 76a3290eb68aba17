"""AdamW on a CPU: the gradient is read for its norm, and then all that belongs to a parameter is read and written once.

    optimizer = cpu_layers.adamw(1e-4, [{"params": encoder}, {"params": new, "learning_rate": 10.0}], max_grad_norm=1.0)
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()

Has the methods of paddle.optimizer.AdamW that training uses, computes the same, and reads and gives the same state.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import paddle

from hierarchical import cpu_kernels as kernels
from hierarchical.cpu_transformer import array
from hierarchical.weights import MOMENTS, POWERS

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # the library's own
START = dict(zip((*MOMENTS, *POWERS), (0.0, 0.0, BETA1, BETA2)))


class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter, 2019) of float32 parameters.

    groups: dicts of "params" and "learning_rate", a factor; the gradient of each is clipped to max_grad_norm, if any
    decays: whether weight_decay is for the parameter of this name
    """

    def __init__(
        self,
        learning_rate: float,
        groups: list[dict],
        weight_decay: float,
        decays: Callable[[str], bool],
        max_grad_norm: float,
        threads: int,
    ):
        self.rate, self.groups, self.weight_decay, self.decays = learning_rate, groups, weight_decay, decays
        self.max_grad_norm, self.threads = max_grad_norm, threads
        self.moments: dict[str, dict[str, Any]] = {}  # parameter -> what START names

    def get_lr(self) -> float:
        return self.rate

    def set_lr(self, rate: float) -> None:
        self.rate = rate

    def state_dict(self) -> dict[str, Any]:
        """<parameter's name>_<moment> -> its tensor, in which the next step finds it."""
        return {f"{name}_{key}": tensor for name, own in self.moments.items() for key, tensor in own.items()}

    def set_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the tensors of `state_dict`; float32, of their parameters' shapes, which nobody checks again."""
        names = [parameter.name for group in self.groups for parameter in group["params"]]
        self.moments = {
            name: {key: state[f"{name}_{key}"] for key in START} for name in names if f"{name}_{MOMENTS[0]}" in state
        }

    def clear_grad(self) -> None:
        """Forget the gradients; a parameter that gets none in a step stays where it is, in a resumed run as well."""
        for group in self.groups:
            for parameter in group["params"]:
                parameter.clear_gradient(False)

    def step(self) -> None:
        for group in self.groups:
            rate = self.rate * group.get("learning_rate", 1.0)
            found = [p for p in group["params"] if not p.stop_gradient and p.grad is not None]
            gradients = [rows(parameter.grad.contiguous()) for parameter in found]
            squares = [np.empty(len(gradient), np.float32) for gradient in gradients]
            for gradient, of_rows in zip(gradients, squares):
                self.run(kernels.squares, gradient, of_rows)
            norm = float(np.sqrt(sum(of_rows.sum(dtype=np.float64) for of_rows in squares)))
            clip = self.max_grad_norm / max(norm, self.max_grad_norm) if self.max_grad_norm else 1.0
            for parameter, gradient, of_rows in zip(found, gradients, squares):
                self.update(parameter, gradient, of_rows, clip, rate)

    def update(self, parameter: Any, gradient: np.ndarray, squares: np.ndarray, clip: float, rate: float) -> None:
        """Have a parameter follow its gradient times `clip`."""
        if parameter.name not in self.moments:
            shapes = {key: parameter.shape if key in MOMENTS else [1] for key in START}
            self.moments[parameter.name] = {key: paddle.full(shapes[key], START[key], "float32") for key in START}
        own = self.moments[parameter.name]
        power1, power2 = (array(own[key]) for key in POWERS)
        correction = float(np.sqrt(1 - power2[0]))
        decay = 1 - rate * self.weight_decay * self.decays(parameter.name)
        numbers = clip, decay, rate * correction / (1 - float(power1[0])), EPSILON * correction, BETA1, BETA2
        arrays = rows(parameter), *(rows(own[key]) for key in MOMENTS)
        self.run(kernels.adamw, gradient, squares, *arrays, *map(np.float32, numbers))
        power1 *= np.float32(BETA1)
        power2 *= np.float32(BETA2)

    def run(self, kernel: Callable, gradient: np.ndarray, *others: Any) -> None:
        kernels.in_parts(kernel, len(gradient), self.threads, gradient, *others)


def rows(tensor: Any) -> np.ndarray:
    """The numbers of a tensor as [rows, units], not copied."""
    found = array(tensor)
    return found.reshape(-1, found.shape[-1]) if found.ndim > 1 else found.reshape(1, -1)


@cache
def agrees() -> bool:
    """Whether it goes where the library's goes; the log says so if it does not."""

    def trial() -> float:
        start = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
        attribute = paddle.ParamAttr(initializer=paddle.nn.initializer.Assign(start))
        one, other = (paddle.create_parameter(start.shape, "float32", attr=attribute) for _ in range(2))
        clip = paddle.nn.ClipGradByGlobalNorm(1.0)
        pairs = [
            (one, paddle.optimizer.AdamW(0.1, parameters=[one], weight_decay=0.1, grad_clip=clip)),
            (other, AdamW(0.1, [{"params": [other]}], 0.1, lambda name: True, 1.0, threads=1)),
        ]
        for parameter, optimizer in [*pairs, *pairs]:
            (parameter**2).sum().backward()
            optimizer.step()
            optimizer.clear_grad()
        return float((one - other).norm() / one.norm())

    return kernels.is_right("steps of AdamW in one pass", trial, 1e-4)
