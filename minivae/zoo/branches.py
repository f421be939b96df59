"""Networks that fork: layers side by side, and layers whose input is handed on beside what they make of it."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from ..errors import MiniVAEError, rows_of, shown
from ..model.layers import Layer, Sequential
from ..model.parameters import Composite, joined, within


def known_widths(name, network: Layer) -> tuple[int, int]:
    """How many columns a network takes and gives; raises MiniVAEError where its layers don't fix that or don't fit."""
    if network.input_shape is None or len(network.input_shape) != 1:
        raise MiniVAEError(f"{name} should begin with a layer of known width, such as Dense")
    try:
        made = network.output_shape(network.input_shape)
    except MiniVAEError as error:
        raise MiniVAEError(f"{name}: {error}") from error
    if len(made) != 1:
        raise MiniVAEError(f"{name} should give rows of numbers, got {rows_of(made)}: end it with Flatten()")
    return network.input_shape[0], made[0]


def widths_without_dropout(name, network: Layer) -> tuple[int, int]:
    """`known_widths` of a network in a posterior or a prior, for which no step of a training draws uniform numbers."""
    widths = known_widths(name, network)
    if network.uniform_shapes(network.input_shape):
        raise MiniVAEError(f"{name} has a Dropout, which drops in the encoder and the decoder only: leave it out")
    return widths


def blocks(x, widths):
    """The columns of x (rows, sum of the widths), block by block."""
    return [x[:, stop - width : stop] for width, stop in zip(widths, accumulate(widths), strict=True)]


class SideBySide(Composite, Layer):
    """Networks side by side, each for columns of its own: y = [f_0(x_0), f_1(x_1), ...] for x = [x_0, x_1, ...].

    networks : lists of layers, each of which fixes how many columns it takes, as Dense does

    dx = [dx_0, dx_1, ...], each network's own. The parameters of layer j of network i are called "i.j.W".
    """

    def __init__(self, networks: Sequence[Sequence[Layer]]) -> None:
        stacks = [Sequential(layers) for layers in (networks if isinstance(networks, (list, tuple)) else [])]
        if not stacks:
            raise MiniVAEError(f"SideBySide: expected a list of at least one network, got {shown(networks)}")
        widths = [known_widths(f"SideBySide: network {i}", stack) for i, stack in enumerate(stacks)]
        self.networks, self.stacks = [stack.layers for stack in stacks], stacks
        self.takes, self.gives = zip(*widths, strict=True)
        self.input_shape = (sum(self.takes),)

    def parts(self):
        return {str(i): stack for i, stack in enumerate(self.stacks)}

    def uniform_shapes(self, input_shape):
        return joined({name: stack.uniform_shapes(stack.input_shape) for name, stack in self.parts().items()})

    def output_shape(self, input_shape):
        if tuple(input_shape) != self.input_shape:
            raise MiniVAEError(f"SideBySide expects (B, {self.input_shape[0]}), got {rows_of(input_shape)}")
        return (sum(self.gives),)

    def forward(self, params, x):
        self.output_shape(x.shape[1:])
        ys, backward_passes = [], {}
        for (name, stack), columns in zip(self.parts().items(), blocks(x, self.takes), strict=True):
            y, backward_passes[name] = stack.forward(within(params, name), columns)
            ys.append(y)

        def backward(dy):
            dxs, grads = [], {}
            for (name, stack_backward), columns in zip(backward_passes.items(), blocks(dy, self.gives), strict=True):
                dx, grads[name] = stack_backward(columns)
                dxs.append(dx)
            return np.concatenate(dxs, axis=1), joined(grads)

        return np.concatenate(ys, axis=1), backward


class WithInput(Composite, Layer):
    """A network, and its input handed on behind what it makes of it: y = [f(x), x].

    dx = f's own + the part of dy that belongs to x. The parameters of layer i are called "i.W".
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.f = Sequential(layers)
        n_in, _ = known_widths("WithInput: layers", self.f)
        self.layers, self.input_shape = self.f.layers, (n_in,)

    def parts(self):
        return self.f.parts()

    def uniform_shapes(self, input_shape):
        return self.f.uniform_shapes(input_shape)

    def output_shape(self, input_shape):
        return (self.f.output_shape(input_shape)[0] + input_shape[0],)

    def forward(self, params, x):
        y, f_backward = self.f.forward(params, x)

        def backward(dy):
            dx, grads = f_backward(dy[:, : y.shape[1]])
            return dx + dy[:, y.shape[1] :], grads

        return np.concatenate([y, x], axis=1), backward
