"""Normalizing flows: a simple posterior bent, step by step, into a richer one whose density is still known.

    (z_out, log_det), backward = flow.forward(params, z, context)
    dz, dcontext, grads = backward(dz_out, dlog_det)

z, z_out are (N, D), context (N, C) or None, and log_det (N, 1) is log |det dz_out/dz|. With z_0 from a base posterior,
log q(z_K given x) = log q_0(z_0 given x) - the sum of all log_det.
"""

import math
from collections.abc import Sequence

import numpy as np

from ..arguments import flag, integer, one_of
from ..errors import MiniVAEError, named
from .layers import Dense, dense, relu, sigmoid
from .parameters import Composite, Part, joined, within
from .posteriors import DiagonalGaussian, Posterior


class Flow(Part):
    """An invertible map of z (N, dim) that may depend on `context` numbers for each example.

    forward(params, z, context) -> (z_out, log_det), backward       z_out (N, dim); log_det (N, 1), log |det dz_out/dz|
        backward(dz_out, dlog_det) -> dz, dcontext, grads           dcontext is None without a context (N, C)
    """

    dim: int
    context = 0

    def forward(self, params, z, context=None):
        raise NotImplementedError


# ----------------------------------------------------------------------------------------------------- planar


def planar_direction(u, w):
    """u with another part along w, so that the planar step is invertible whatever u is: v.w = c, and c > -1.

        v = u + (c - p) w / n,   p = u.w,  n = w.w,  c = log(1 + exp(p)) - 1

    u, w (1, D) -> v (1, D), c (1, 1). v is not u even where u would do; at right angles to w they are the same.

    With g = dv.w / n and dc/dp = sigmoid(p) = 1 - exp(-1 - c):
        dp = (dc + g) sigmoid(p) - g,   du = dv + dp w,   dw = (c - p) / n dv + dp u - 2 g (c - p) / n w.
    Source: Rezende & Mohamed 2015, appendix A.1.
    """
    p, n = np.sum(u * w, axis=1, keepdims=True), np.sum(w * w, axis=1, keepdims=True)
    c = np.logaddexp(p, 0) - 1
    shift = (c - p) / n

    def backward(dv, dc):
        g = np.sum(dv * w, axis=1, keepdims=True) / n
        dp = -(dc + g) * np.expm1(-1 - c) - g
        return dv + dp * w, shift * dv + dp * u - 2 * g * shift * w  # du, dw

    return (u + shift * w, c), backward


def planar(z, w, b, v, c):
    """Squeeze or stretch space across one plane.

        z_out = z + v h,   h = tanh(a),  a = w.z + b,   log_det = log(1 + (1 - h^2) c)   with c = v.w

    z (N, D);  w, v (1, D);  b, c (1, 1) -> z_out (N, D), log_det (N, 1)

    With s = 1 - h^2 = dh/da and ds/dh = -2 h:
        ds = c / (1 + s c) dlog_det,   dc = s / (1 + s c) dlog_det, summed over the rows
        da = s (dz_out.v - 2 h ds),   dz = dz_out + da w,   dw = sum da z,   db = sum da,   dv = sum h dz_out.
    Source: Rezende & Mohamed 2015, equations 10 to 12.
    """
    h = np.tanh(np.sum(z * w, axis=1, keepdims=True) + b)
    s = 1 - h**2

    def backward(dz_out, dlog_det):
        ratio = dlog_det / (1 + s * c)
        da = s * (np.sum(dz_out * v, axis=1, keepdims=True) - 2 * h * (ratio * c))
        dw, db = np.sum(da * z, axis=0, keepdims=True), np.sum(da, axis=0, keepdims=True)
        dv, dc = np.sum(h * dz_out, axis=0, keepdims=True), np.sum(ratio * s, axis=0, keepdims=True)
        return dz_out + da * w, dw, db, dv, dc  # dz, dw, db, dv, dc

    return (z + v * h, np.log1p(s * c)), backward


class Planar(Flow):
    """A planar step z_out = z + v tanh(w.z + b), the same for all examples; parameters u, w (1, dim), b (1, 1).

    v is made of u so that the step is invertible; see `planar_direction`. Source: Rezende & Mohamed 2015, section 4.1.
    """

    def __init__(self, dim: int) -> None:
        self.dim = integer("Planar: dim", dim)

    def shapes(self):
        return {"u": (1, self.dim), "w": (1, self.dim), "b": (1, 1)}

    def initial(self, rng):
        std = 1 / math.sqrt(self.dim)
        u, w = rng.normal(0, std, (2, 1, self.dim))
        return {"u": u, "w": w, "b": np.zeros((1, 1))}

    def forward(self, params, z, context=None):
        (v, c), direction_backward = planar_direction(params["u"], params["w"])
        value, planar_backward = planar(z, params["w"], params["b"], v, c)

        def backward(dz_out, dlog_det):
            dz, dw, db, dv, dc = planar_backward(dz_out, dlog_det)
            du, dw_of_v = direction_backward(dv, dc)
            return dz, None, {"u": du, "w": dw + dw_of_v, "b": db}

        return value, backward


# -------------------------------------------------------------------------------------- inverse autoregressive


def autoregressive_masks(dim, hidden, context=0, reverse=False, kind="full"):
    """The weights that a network from z and context to (m, s) may use, so that m_d and s_d see only z before d.

    Inputs have the degrees 1..dim (or dim..1 with `reverse`) and context inputs 0. A hidden unit sees inputs of at
    most its degree, an output only hidden units below its own. The degrees of hidden units run, again and again,
    through 1..dim - 1, and with a context through 0 as well: such units bring it to the output of degree 1. Where there
    are fewer units than degrees, theirs are spread evenly from the first to the last, so that no input is left out.

    kind : "full", or "0.1", the masks of version 0.1: without the degree 0, and without the last where units are few
    Returns NumPy arrays of zeros and ones, (dim + context, hidden) and (hidden, 2 dim), for the outputs m and s.
    Source: Germain, Gregor, Murray & Larochelle 2015, section 4.
    """
    inputs = np.arange(1, dim + 1)[:: -1 if reverse else 1]
    lowest = 0 if context and kind == "full" else 1
    degrees = np.arange(lowest, max(dim, lowest + 1))
    if kind == "full" and hidden < len(degrees):
        degrees = np.linspace(degrees[0], degrees[-1], hidden).round()
    of_hidden = np.resize(degrees, hidden)
    first = np.concatenate([inputs, np.zeros(context, int)])[:, None] <= of_hidden
    second = of_hidden[:, None] < np.concatenate([inputs, inputs])
    return first, second


def masked_dense(x, W, b, mask):
    """`dense` with W * mask in place of W;  dW is then masked too."""
    y, dense_backward = dense(x, W * mask, b)

    def backward(dy):
        dx, dW, db = dense_backward(dy)
        return dx, dW * mask, db

    return y, backward


def gated_step(z, m, s):
    """A weighted mean of z and m, whose weights are given as logits s.

        z_out = g z + (1 - g) m,   g = sigmoid(s),   log_det = sum_d log g_d

    With t = tanh(s / 2), g = (1 + t) / 2 and log g = min(s, 0) + log(1 + |t|) - log 2: nothing overflows.
    It is a flow when m_d and s_d depend only on the z before z_d: the Jacobian is then triangular.

    z, m, s (N, D) -> z_out (N, D), log_det (N, 1)

    dz = g dz_out,   dm = (1 - g) dz_out,   and with dg/ds = g (1 - g):  ds = (1 - g) (g (z - m) dz_out + dlog_det).
    Source: Kingma et al. 2016, algorithm 1.
    """
    t = np.tanh(0.5 * s)
    g = 0.5 + 0.5 * t
    log_det = np.sum(np.minimum(s, 0) + np.log1p(np.abs(t)), axis=1, keepdims=True) - math.log(2) * z.shape[1]

    def backward(dz_out, dlog_det):
        dz = g * dz_out
        return dz, dz_out - dz, (1 - g) * ((z - m) * dz + dlog_det)  # dz, dm, ds

    return (m + g * (z - m), log_det), backward


class InverseAutoregressive(Composite, Flow):
    """An inverse autoregressive step: each z_d is gated towards a value, both from the z before it and the context.

    dim     : D
    hidden  : the width of the network's one hidden layer (ReLU), at least 2 where there is more to see than one number
    context : C, how many more numbers the encoder gives for each example; all dimensions see them all
    reverse : take the dimensions from the last to the first, as every other step of a chain should
    masks   : "full", or "0.1" for models of version 0.1, whose first dimension does not see the context, and which
              leaves inputs out where hidden < dim - 1; see `autoregressive_masks`

    Its parameters are those of the network: "0.W" (D + C, hidden), "0.b", "2.W" (hidden, 2D), "2.b".
    Source: Kingma et al. 2016, algorithm 1.
    """

    GATE_BIAS = 2.0  # at first a step changes little: sigmoid(2) = 0.88

    def __init__(self, dim: int, hidden: int, context: int = 0, reverse: bool = False, masks: str = "full") -> None:
        self.dim = integer("InverseAutoregressive: dim", dim)
        self.hidden = integer("InverseAutoregressive: hidden", hidden)
        self.context = integer("InverseAutoregressive: context", context, 0)
        self.reverse = flag("InverseAutoregressive: reverse", reverse)
        self.masks = one_of("InverseAutoregressive: masks", masks, ("full", "0.1"))
        if masks == "full" and hidden == 1 and (dim > 2 or (dim > 1 and context)):
            raise MiniVAEError(
                "InverseAutoregressive: hidden should be at least 2, since one unit cannot see all it should, got 1"
            )

    def parts(self):
        return {"0": Dense(self.dim + self.context, self.hidden), "2": Dense(self.hidden, 2 * self.dim)}

    def initial(self, rng):
        values = super().initial(rng)
        values["2.b"][self.dim :] = self.GATE_BIAS
        return values

    def constant_arrays(self):
        first, second = autoregressive_masks(self.dim, self.hidden, self.context, self.reverse, self.masks)
        return {"0.mask": first, "2.mask": second}

    def forward(self, params, z, context=None):
        D = self.dim
        (m, s), network_backward = self._network(params, z, context)
        value, gate_backward = gated_step(z, m, s)

        def backward(dz_out, dlog_det):
            dz, dm, ds = gate_backward(dz_out, dlog_det)
            dinputs, grads = network_backward(dm, ds)
            return dz + dinputs[:, :D], None if context is None else dinputs[:, D:], grads

        return value, backward

    def _network(self, params, z, context):
        """The value m and the gate's logits s for each dimension; dm, ds -> the gradient of [z, context], and grads."""
        D, first, second = self.dim, within(params, "0"), within(params, "2")
        inputs = z if context is None else np.concatenate([z, context], axis=1)
        h, first_backward = masked_dense(inputs, first["W"], first["b"], first["mask"])
        h, relu_backward = relu(h)
        out, second_backward = masked_dense(h, second["W"], second["b"], second["mask"])

        def backward(dm, ds):
            dh, dW2, db2 = second_backward(np.concatenate([dm, ds], axis=1))
            dinputs, dW0, db0 = first_backward(relu_backward(dh))
            return dinputs, {"0.W": dW0, "0.b": db0, "2.W": dW2, "2.b": db2}

        return (out[:, :D], out[:, D:]), backward

    def inverse(self, params, z_out, context=None):
        """The z whose z_out this is, both (N, D), one dimension after another: each needs those before it.

        z_d = m_d + (z_out_d - m_d) / g_d
        """
        z = np.zeros_like(z_out)
        for d in range(self.dim)[:: -1 if self.reverse else 1]:
            (m, s), _ = self._network(params, z, context)
            g, _ = sigmoid(s[:, d])
            z[:, d] = m[:, d] + (z_out[:, d] - m[:, d]) / g
        return z


# -------------------------------------------------------------------------------------------------- posterior


def chain_of(name, flows, kind, such_as):
    """The flows as a list; raises MiniVAEError unless they are some of that kind, and all of one dim."""
    chain = list(flows) if isinstance(flows, (list, tuple)) else []
    if not chain or not all(isinstance(flow, kind) for flow in chain):
        bad = next((flow for flow in chain if not isinstance(flow, kind)), flows)
        raise MiniVAEError(f"{name}: flows should be a list of {such_as}, got {named(bad)}")
    if len(dims := {flow.dim for flow in chain}) > 1:
        raise MiniVAEError(f"{name}: all flows should have the same dim, got {sorted(dims)}")
    return chain


class FlowPosterior(Composite, Posterior):
    """q(z given x): a sample of a base posterior, taken through a chain of flows.

        log q(z_K given x) = log q_0(z_0 given x) - sum_k log_det_k

    flows : such as [InverseAutoregressive(32, 256), InverseAutoregressive(32, 256, reverse=True)]
    base  : DiagonalGaussian() by default

    The statistics are those of the base and then, side by side, the context of each flow: (B, 2D + sum of C).
    Source: Rezende & Mohamed 2015, equation 13.
    """

    def __init__(self, flows: Sequence[Flow], base: Posterior | None = None) -> None:
        self.flows = chain_of("FlowPosterior", flows, Flow, "flows such as Planar(2)")
        self.base = DiagonalGaussian() if base is None else base
        if not isinstance(self.base, Posterior):
            raise MiniVAEError(f"FlowPosterior: base should be a posterior or None, got {named(base)}")
        if self.base.trains_otherwise or self.base.has_own_loss or self.base.of_whole_batches:
            raise MiniVAEError(
                f"FlowPosterior: {type(self.base).__name__} trains in a way of its own, which flows do not hand on: "
                "use it without them"
            )

    def parts(self):
        return {"base": self.base} | {str(i): flow for i, flow in enumerate(self.flows)}

    @property
    def _n_context(self):
        return sum(flow.context for flow in self.flows)

    def latent_dim(self, stats_dim):
        D = self.base.latent_dim(stats_dim - self._n_context)
        if D != self.flows[0].dim:
            raise MiniVAEError(
                f"FlowPosterior: flows of dim {self.flows[0].dim} with {self._n_context} context numbers need "
                f"(B, {2 * self.flows[0].dim + self._n_context}) from the encoder, got (B, {stats_dim})"
            )
        return D

    def _split_context(self, stats):
        """The base's statistics, and the context of each flow, None for one that has none."""
        start = stats.shape[1] - self._n_context
        contexts, base = [], stats[:, :start]
        for flow in self.flows:
            contexts.append(stats[:, start : start + flow.context] if flow.context else None)
            start += flow.context
        return base, contexts

    def split(self, stats):
        """mu and log_var of the base, (B, D) each."""
        return self.base.split(self._split_context(stats)[0])

    def moments(self, params, stats):
        """The base's mu, taken through the flows as a draw is, and the base's log_var, (B, D) each.

        mu is the z of eps = 0, no mean: that of q has no closed form.
        """
        base, contexts = self._split_context(stats)
        z, log_var = self.base.moments(within(params, "base"), base)
        for i, (flow, context) in enumerate(zip(self.flows, contexts, strict=True)):
            (z, _), _ = flow.forward(within(params, str(i)), z, context)
        return z, log_var

    def with_log_q(self, params, stats, eps):
        L, B, D = eps.shape
        base, contexts = self._split_context(stats)
        (z, log_q), base_backward = self.base.with_log_q(within(params, "base"), base, eps)
        z, flow_backward = z.reshape(L * B, D), {}
        for i, (flow, context) in enumerate(zip(self.flows, contexts, strict=True)):
            if context is not None:  # each of the L samples sees that of its example
                context = np.broadcast_to(context, (L, *context.shape)).reshape(L * B, -1)
            (z, log_det), flow_backward[str(i)] = flow.forward(within(params, str(i)), z, context)
            log_q = log_q - log_det.reshape(L, B)

        def backward(dz, dlog_q):
            dz, dlog_det = dz.reshape(L * B, D), -dlog_q.reshape(L * B, 1)
            dcontexts, grads = [], {}
            for name, one_backward in reversed(flow_backward.items()):
                dz, dcontext, grads[name] = one_backward(dz, dlog_det)
                if dcontext is not None:
                    dcontexts.insert(0, np.sum(dcontext.reshape(L, B, -1), axis=0))
            dbase, grads["base"] = base_backward(dz.reshape(L, B, D), dlog_q)
            return np.concatenate([dbase, *dcontexts], axis=1), joined(grads)

        return (z.reshape(L, B, D), log_q), backward
