"""Gated dense layers: half of a layer's products says what it gives, the other half how much of that passes.

Source: Dauphin, Fan, Auli & Grangier 2017, "Language modeling with gated convolutional networks", equation 1; in VAEs
Tomczak & Welling 2018, "VAE with a VampPrior", section 5.
"""

import numpy as np

from ..model.layers import INITIALISERS, Dense, dense, sigmoid


def gated_dense(x, W, b, V, c):
    """An affine map of each row, each value of which passes a gate of its own.

        y = h g,   h = x W + b,   g = sigmoid(x V + c)

    x (B, I);  W, V (I, O);  b, c (O,) -> y (B, O)

    By the product rule  dh = g dy,  dg = h dy;  behind both stand affine maps of the same x, so
        dx = dh W' + (dg g (1 - g)) V',   and dW, db, dV, dc as in `dense`.
    """
    h, h_backward = dense(x, W, b)
    logits, logits_backward = dense(x, V, c)
    g, g_backward = sigmoid(logits)

    def backward(dy):
        dx_of_h, dW, db = h_backward(dy * g)
        dx_of_g, dV, dc = logits_backward(g_backward(dy * h))
        return dx_of_h + dx_of_g, dW, db, dV, dc

    return h * g, backward


class GatedDense(Dense):
    """y = (x W + b) sigmoid(x V + c) with W, V (n_in, n_out) and b, c (n_out,); see `gated_dense`.

    init : as for `Dense`, for W and V; b and c start at zero, so that half of everything passes.
    """

    def shapes(self):
        return super().shapes() | {"V": (self.n_in, self.n_out), "c": (self.n_out,)}

    def initial(self, rng):
        fans = self.n_in, self.n_out
        return super().initial(rng) | {"V": INITIALISERS[self.init](rng, *fans, fans), "c": np.zeros(self.n_out)}

    def forward(self, params, x):
        self.output_shape(x.shape[1:])
        y, gated_backward = gated_dense(x, params["W"], params["b"], params["V"], params["c"])

        def backward(dy):
            dx, dW, db, dV, dc = gated_backward(dy)
            return dx, {"W": dW, "b": db, "V": dV, "c": dc}

        return y, backward
