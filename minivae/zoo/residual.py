"""Residual blocks: layers that learn what to add to their input.

Source: He, Zhang, Ren & Sun 2016, "Deep residual learning for image recognition", equation 1.
"""

from collections.abc import Sequence

from ..errors import MiniVAEError
from ..model.layers import Layer, Sequential
from ..model.parameters import Composite


class Residual(Composite, Layer):
    """y = x + f(x), where f is a list of layers that keep the shape of a row.

    dx = dy + f'(x) dy: the gradient has a way back that no layer of f can close. The parameters of layer i are called
    "i.W", "i.b".
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.f = Sequential(layers)
        self.layers, self.input_shape = self.f.layers, self.f.input_shape

    def parts(self):
        return self.f.parts()

    def uniform_shapes(self, input_shape):
        return self.f.uniform_shapes(input_shape)

    def output_shape(self, input_shape):
        output_shape = self.f.output_shape(input_shape)
        if tuple(output_shape) != tuple(input_shape):
            raise MiniVAEError(
                f"Residual: its layers make rows of shape {output_shape} of {input_shape}, but x is added to them: "
                "the last should give as many values as the first takes"
            )
        return output_shape

    def forward(self, params, x):
        self.output_shape(x.shape[1:])
        y, f_backward = self.f.forward(params, x)

        def backward(dy):
            dx, grads = f_backward(dy)
            return dx + dy, grads

        return x + y, backward
