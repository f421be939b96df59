"""Normalizing flows: a simple posterior bent, step by step, into a richer one whose density is still known.

    forward(z, context) -> z', log_det     z, z' (N, D), context (N, C) or None; log_det (N, 1) is log |det dz'/dz|
    backward(dz', dlog_det) -> dz, dcontext

With z_0 from a base posterior, log q(z_K given x) = log q_0(z_0 given x) - the sum of all log_det.
"""

import math

import numpy as np

from .errors import MiniVAEError
from .layers import Dense, ReLU, Sequential, dense, dense_backward
from .parameters import Composite, Module
from .posteriors import DiagonalGaussian, Posterior

LOG_2 = math.log(2)


class Flow(Module):
    """An invertible map of z (N, dim) that may depend on `context` numbers for each example."""

    context = 0

    def _check(self, **sizes):
        for name, size in sizes.items():
            least = 0 if name == "context" else 1
            if not isinstance(size, (int, np.integer)) or size < least:
                raise MiniVAEError(
                    f"{type(self).__name__}: {name} should be an integer of at least {least}, got {size!r}"
                )


# ----------------------------------------------------------------------------------------------------- planar


def planar_direction(xp, u, w, *, direction, scalars):
    """u, moved along w so far that the planar step is invertible.

        direction = u + (c - p) w / n,   p = u.w,  n = w.w,  c = log(1 + exp(p)) - 1 = direction.w > -1

    u, w, direction : (1, D);  scalars : (4, 1, 1): p, n, c and (c - p) / n.  The last two are overwritten.
    Source: Rezende & Mohamed 2015, appendix A.1.
    """
    p, n, c, shift = scalars
    xp.multiply(u, w, out=direction)
    xp.sum(direction, axis=1, keepdims=True, out=p)
    xp.multiply(w, w, out=direction)
    xp.sum(direction, axis=1, keepdims=True, out=n)
    xp.logaddexp(p, 0, out=c)
    xp.subtract(c, 1, out=c)
    xp.subtract(c, p, out=shift)
    xp.divide(shift, n, out=shift)
    xp.multiply(w, shift, out=direction)
    xp.add(direction, u, out=direction)


def planar_direction_backward(xp, ddirection, dc, u, w, scalars, *, du, add_to, work):
    """The gradients of `planar_direction`, for its outputs direction and c.

        g = ddirection.w / n,   dp = (dc + g) sigmoid(p) - g,   sigmoid(p) = 1 - exp(-1 - c)
        du = ddirection + dp w,   dw += (c - p) / n ddirection + dp u - 2 g (c - p) / n w

    ddirection, du, dw : (1, D);  dc : (1, 1);  du is overwritten, and add_to is dw
    work : (3, 1, 1) and (1, D), overwritten
    """
    dw = add_to
    p, n, c, shift = scalars
    (g, dp, slope), vector = work
    xp.multiply(ddirection, w, out=vector)
    xp.sum(vector, axis=1, keepdims=True, out=g)
    xp.divide(g, n, out=g)
    xp.add(c, 1, out=slope)
    xp.negative(slope, out=slope)
    xp.expm1(slope, out=slope)  # exp(-log(1 + exp(p))) - 1 = -sigmoid(p)
    xp.add(dc, g, out=dp)
    xp.multiply(dp, slope, out=dp)
    xp.add(dp, g, out=dp)
    xp.negative(dp, out=dp)
    xp.multiply(w, dp, out=du)
    xp.add(du, ddirection, out=du)
    xp.multiply(ddirection, shift, out=vector)
    xp.add(dw, vector, out=dw)
    xp.multiply(u, dp, out=vector)
    xp.add(dw, vector, out=dw)
    xp.multiply(g, shift, out=g)
    xp.multiply(g, -2, out=g)
    xp.multiply(w, g, out=vector)
    xp.add(dw, vector, out=dw)


def planar(xp, z, w, b, direction, c, *, h, slope, z_out, log_det):
    """Squeeze or stretch space across one plane.

        z' = z + direction h,   h = tanh(w.z + b),   log_det = log(1 + (1 - h^2) c)

    z, z_out : (N, D);  w, direction : (1, D);  b, c : (1, 1), c = direction.w;  h, slope, log_det : (N, 1)
    The last four are overwritten; slope is 1 - h^2.
    Source: Rezende & Mohamed 2015, equations 10 to 12.
    """
    xp.multiply(z, w, out=z_out)
    xp.sum(z_out, axis=1, keepdims=True, out=h)
    xp.add(h, b, out=h)
    xp.tanh(h, out=h)
    xp.multiply(direction, h, out=z_out)
    xp.add(z_out, z, out=z_out)
    xp.multiply(h, h, out=slope)
    xp.subtract(1, slope, out=slope)
    xp.multiply(slope, c, out=log_det)
    xp.log1p(log_det, out=log_det)


def planar_backward(xp, dz_out, dlog_det, z, w, direction, c, h, slope, *, dz, dw, db, ddirection, dc, work):
    """The gradients of `planar`.

        dslope = dlog_det c / (1 + slope c),   da = slope (dz'.direction - 2 h dslope)     with h = tanh(a)
        dz = dz' + da w,   dw = sum da z,   db = sum da
        ddirection = sum h dz',   dc = sum dlog_det slope / (1 + slope c)

    dz_out, dz : (N, D);  dlog_det : (N, 1);  dz, dw, db, ddirection and dc are overwritten in the shapes of their
    values; work : two arrays (N, 1), overwritten
    """
    da, ratio = work
    xp.multiply(dz_out, h, out=dz)
    xp.sum(dz, axis=0, keepdims=True, out=ddirection)
    xp.multiply(slope, c, out=ratio)
    xp.add(ratio, 1, out=ratio)
    xp.divide(dlog_det, ratio, out=ratio)
    xp.multiply(ratio, slope, out=da)
    xp.sum(da, axis=0, keepdims=True, out=dc)
    xp.multiply(ratio, c, out=ratio)
    xp.multiply(ratio, h, out=ratio)
    xp.multiply(ratio, 2, out=ratio)
    xp.multiply(dz_out, direction, out=dz)
    xp.sum(dz, axis=1, keepdims=True, out=da)
    xp.subtract(da, ratio, out=da)
    xp.multiply(da, slope, out=da)
    xp.sum(da, axis=0, keepdims=True, out=db)
    xp.multiply(z, da, out=dz)
    xp.sum(dz, axis=0, keepdims=True, out=dw)
    xp.multiply(w, da, out=dz)
    xp.add(dz, dz_out, out=dz)


class Planar(Flow):
    """A planar step z' = z + direction tanh(w.z + b), the same for all examples; parameters u, w (1, dim), b (1, 1).

    Source: Rezende & Mohamed 2015, section 4.1.
    """

    def __init__(self, dim):
        self._check(dim=dim)
        self.dim = int(dim)

    def shapes(self):
        return {"u": (1, self.dim), "w": (1, self.dim), "b": (1, 1)}

    def initial(self, rng):
        std = 1 / math.sqrt(self.dim)
        u, w = rng.normal(0, std, (2, 1, self.dim))
        return {"u": u, "w": w, "b": np.zeros((1, 1))}

    def forward(self, z, context=None):
        xp, buffers, N = self.xp, self.buffers, len(z)
        self.z, self.direction = z, buffers("direction", 1, self.dim)
        scalars = buffers("scalars", 4, 1, 1)
        self.scalars = tuple(scalars[i] for i in range(4))
        planar_direction(xp, self.u, self.w, direction=self.direction, scalars=self.scalars)
        self.h, self.slope = buffers("h", N, 1), buffers("slope", N, 1)
        z_out, log_det = buffers("z_out", N, self.dim), buffers("log_det", N, 1)
        c = self.scalars[2]
        planar(xp, z, self.w, self.b, self.direction, c, h=self.h, slope=self.slope, z_out=z_out, log_det=log_det)
        return z_out, log_det

    def backward(self, dz_out, dlog_det):
        xp, buffers, (N, D) = self.xp, self.buffers, dz_out.shape
        dz, ddirection, dc = buffers("dz", N, D), buffers("ddirection", 1, D), buffers("dc", 1, 1)
        planar_backward(
            *(xp, dz_out, dlog_det, self.z, self.w, self.direction, self.scalars[2], self.h, self.slope),
            **{"dz": dz, "dw": self.dw, "db": self.db, "ddirection": ddirection, "dc": dc},
            work=(buffers("da", N, 1), buffers("ratio", N, 1)),
        )
        small = buffers("small", 3, 1, 1)
        work = (small[0], small[1], small[2]), buffers("vector", 1, D)
        planar_direction_backward(
            xp, ddirection, dc, self.u, self.w, self.scalars, du=self.du, add_to=self.dw, work=work
        )
        return dz, None


# ------------------------------------------------------------------------------------- inverse autoregressive


def autoregressive_masks(dim, hidden, context=0, reverse=False):
    """The masks that let output i of a network with one hidden layer see only inputs before i, and the context.

    Each unit has a degree: input and output i have i = 1..dim (dim..1 if `reverse`), context inputs 0, and hidden
    units run through 1..dim - 1. A hidden unit sees inputs of at most its degree, an output only hidden units below.
    Returns NumPy arrays of zeros and ones, (dim + context, hidden) and (hidden, 2 dim), for the outputs m and s.
    Source: Germain, Gregor, Murray & Larochelle 2015, section 4.
    """
    inputs = np.arange(1, dim + 1)[:: -1 if reverse else 1]
    within = np.arange(hidden) % max(1, dim - 1) + 1
    first = np.concatenate([inputs, np.zeros(context, int)])[:, None] <= within
    second = within[:, None] < np.concatenate([inputs, inputs])
    return first, second


class MaskedDense(Dense):
    """A Dense layer with W * mask in place of W; its owner sets `mask`, (n_in, n_out) on the device."""

    def forward(self, x):
        self.x = x
        self.masked, y = self.buffers("masked", *self.W.shape), self.buffers("y", len(x), self.n_out)
        self.xp.multiply(self.W, self.mask, out=self.masked)
        dense(self.backend, x, self.masked, self.b, y=y)
        return y

    def backward(self, dy):
        dx = self.buffers("dx", len(dy), self.n_in)
        dense_backward(self.backend, dy, self.x, self.masked, dW=self.dW, db=self.db, dx=dx)
        self.xp.multiply(self.dW, self.mask, out=self.dW)
        return dx


def gated_step(xp, z, m, s, *, gate, z_out, log_det, work):
    """A weighted mean of z and m, whose weights are given as logits s.

        gate = sigmoid(s),   z' = gate z + (1 - gate) m,   log_det = sum_d log gate

    With t = tanh(s / 2), gate = (1 + t) / 2 and log gate = min(s, 0) + log(1 + |t|) - log 2: nothing overflows.

    z, m, s, gate, z_out, work : (N, D);  log_det : (N, 1).  The last four are overwritten.
    It is a flow when m_d and s_d depend only on the z before z_d: the Jacobian is then triangular.
    Source: Kingma et al. 2016, algorithm 1.
    """
    xp.multiply(s, 0.5, out=gate)
    xp.tanh(gate, out=gate)
    xp.absolute(gate, out=work)
    xp.log1p(work, out=work)
    xp.minimum(s, 0, out=z_out)
    xp.add(work, z_out, out=work)
    xp.sum(work, axis=1, keepdims=True, out=log_det)
    xp.subtract(log_det, z.shape[1] * LOG_2, out=log_det)
    xp.multiply(gate, 0.5, out=gate)
    xp.add(gate, 0.5, out=gate)
    xp.subtract(z, m, out=z_out)
    xp.multiply(z_out, gate, out=z_out)
    xp.add(z_out, m, out=z_out)


def gated_step_backward(xp, dz_out, dlog_det, z, m, gate, *, dz, dm, ds, work):
    """The gradients of `gated_step`.

        dz = gate dz',   dm = (1 - gate) dz',   ds = (1 - gate) (gate (z - m) dz' + dlog_det)

    dz_out, z, m, gate : (N, D);  dlog_det : (N, 1);  dz, dm, ds and work : (N, D), overwritten
    """
    xp.multiply(dz_out, gate, out=dz)
    xp.subtract(dz_out, dz, out=dm)
    xp.subtract(z, m, out=ds)
    xp.multiply(ds, dz, out=ds)
    xp.add(ds, dlog_det, out=ds)
    xp.subtract(1, gate, out=work)
    xp.multiply(ds, work, out=ds)


class InverseAutoregressive(Composite, Flow):
    """An inverse autoregressive step: each z_d is gated towards a value, both from the z before it and the context.

    dim     : D
    hidden  : the width of the network's one hidden layer (ReLU)
    context : C, how many more numbers the encoder gives for each example; the network sees them all
    reverse : take the dimensions from the last to the first, as every other step of a chain should

    Its parameters are those of the network: "0.W" (D + C, hidden), "0.b", "2.W" (hidden, 2D), "2.b".
    Source: Kingma et al. 2016, algorithm 1.
    """

    GATE_BIAS = 2.0  # at first a step changes little: sigmoid(2) = 0.88

    def __init__(self, dim, hidden, context=0, reverse=False):
        self._check(dim=dim, hidden=hidden, context=context)
        self.dim, self.hidden, self.context, self.reverse = int(dim), int(hidden), int(context), bool(reverse)
        first = MaskedDense(self.dim + self.context, self.hidden)
        second = MaskedDense(self.hidden, 2 * self.dim)
        self.network = Sequential([first, ReLU(), second])

    def parts(self):
        return self.network.parts()

    def initial(self, rng):
        values = super().initial(rng)
        values["2.b"][self.dim :] = self.GATE_BIAS
        return values

    def attach(self, name, backend, parameters, gradients):
        super().attach(name, backend, parameters, gradients)
        masks = autoregressive_masks(self.dim, self.hidden, self.context, self.reverse)
        for layer, mask in zip(self.network.layers[::2], masks, strict=True):
            layer.mask = backend.asarray(mask, parameters.dtype)

    def forward(self, z, context=None):
        N, D = z.shape
        self.z, inputs = z, z
        if self.context:
            inputs = self.buffers("inputs", N, D + self.context)
            self.xp.copyto(inputs[:, :D], z)
            self.xp.copyto(inputs[:, D:], context)
        out = self.network.forward(inputs)
        self.m, s = out[:, :D], out[:, D:]
        self.gate, z_out = self.buffers("gate", N, D), self.buffers("z_out", N, D)
        log_det, work = self.buffers("log_det", N, 1), self.buffers("work", N, D)
        gated_step(self.xp, z, self.m, s, gate=self.gate, z_out=z_out, log_det=log_det, work=work)
        return z_out, log_det

    def backward(self, dz_out, dlog_det):
        N, D = dz_out.shape
        dz, dout = self.buffers("dz", N, D), self.buffers("dout", N, 2 * D)
        dm, ds, work = dout[:, :D], dout[:, D:], self.buffers("work", N, D)
        gated_step_backward(self.xp, dz_out, dlog_det, self.z, self.m, self.gate, dz=dz, dm=dm, ds=ds, work=work)
        dinputs = self.network.backward(dout)
        self.xp.add(dz, dinputs[:, :D], out=dz)
        return dz, dinputs[:, D:] if self.context else None


# -------------------------------------------------------------------------------------------------- posterior


class FlowPosterior(Composite, Posterior):
    """q(z given x): a sample of a base posterior, taken through a chain of flows.

        log q(z_K given x) = log q_0(z_0 given x) - sum_k log_det_k

    flows : such as [InverseAutoregressive(32, 256), InverseAutoregressive(32, 256, reverse=True)]
    base  : DiagonalGaussian() by default

    The statistics are those of the base and then, side by side, the context of each flow: (B, 2D + sum of C).
    Source: Rezende & Mohamed 2015, equation 13.
    """

    def __init__(self, flows, base=None):
        self.flows, self.base = list(flows), base or DiagonalGaussian()
        if not self.flows or not all(isinstance(flow, Flow) for flow in self.flows):
            raise MiniVAEError(f"FlowPosterior: flows should be a list of flows such as Planar(2), got {flows!r}")
        dims = {flow.dim for flow in self.flows}
        if len(dims) > 1:
            raise MiniVAEError(f"FlowPosterior: all flows should have the same dim, got {sorted(dims)}")

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
        """The base's statistics, and the columns of each flow's context."""
        start = stats.shape[1] - self._n_context
        slices, base = [], stats[:, :start]
        for flow in self.flows:
            slices.append(slice(start, start + flow.context))
            start += flow.context
        return base, slices

    def split(self, stats):
        """mu and log_var of the base, (B, D) each."""
        return self.base.split(self._split_context(stats)[0])

    def sample(self, stats, eps):
        L, B, D = self.shape = eps.shape
        self.n_stats = stats.shape[1]
        base, self.columns = self._split_context(stats)
        z = self.base.sample(base, eps).reshape(L * B, D)
        self.log_det = self.buffers("log_det", L * B, 1)
        self.xp.copyto(self.log_det, 0)
        for flow, columns in zip(self.flows, self.columns, strict=True):
            z, log_det = flow.forward(z, self._repeat(stats[:, columns]) if flow.context else None)
            self.xp.add(self.log_det, log_det, out=self.log_det)
        return z.reshape(L, B, D)

    def _repeat(self, context):
        """context (B, C) for each of the L samples: (L B, C)."""
        L, (B, C) = self.shape[0], context.shape
        repeated = self.buffers("context", L, B, C)
        self.xp.copyto(repeated, context)
        return repeated.reshape(L * B, C)

    def log_prob(self):
        log_q = self.buffers("log_q", *self.shape[:2])
        self.xp.subtract(self.base.log_prob(), self.log_det.reshape(log_q.shape), out=log_q)
        return log_q

    def backward(self, dz, *, dlog_q=None):
        L, B, D = self.shape
        dstats = self.buffers("dstats", B, self.n_stats)
        dlog_det = self.buffers("dlog_det", L * B, 1)
        self.xp.copyto(dlog_det, 0)
        if dlog_q is not None:
            self.xp.negative(dlog_q.reshape(L * B, 1), out=dlog_det)
        dz = dz.reshape(L * B, D)
        for flow, columns in zip(reversed(self.flows), reversed(self.columns), strict=True):
            dz, dcontext = flow.backward(dz, dlog_det)
            if flow.context:
                self.xp.sum(dcontext.reshape(L, B, flow.context), axis=0, out=dstats[:, columns])
        dbase = self.base.backward(dz.reshape(L, B, D), dlog_q=dlog_q)
        self.xp.copyto(dstats[:, : dbase.shape[1]], dbase)
        return dstats
