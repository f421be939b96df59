"""A flow as prior: z is what an invertible map makes of standard normal noise.

    log p(z) = log N(f(z); 0, I) + log |det df/dz|

where f, a chain of flows, takes z to the noise: log p(z) is then one pass through the chain, and to draw z the chain is
gone through backwards. Source: Chen et al. 2017, "Variational lossy autoencoder", section 3.2; Papamakarios, Pavlakou &
Murray 2017 for autoregressive maps in this direction.
"""

from collections.abc import Sequence

import numpy as np

from ..errors import MiniVAEError
from ..model.flows import Flow, InverseAutoregressive, chain_of
from ..model.gaussian import standard_normal_log_prob
from ..model.parameters import Composite, joined, within
from ..model.priors import Prior


class FlowPrior(Composite, Prior):
    """log p(z) = log N(z_K; 0, I) + sum_k log_det_k, where z_K is what a chain of flows makes of z.

    flows : such as [InverseAutoregressive(32, 256), InverseAutoregressive(32, 256, reverse=True)]: flows that have an
            inverse and no context
    """

    def __init__(self, flows: Sequence[Flow]) -> None:
        such_as = "InverseAutoregressive, which can be gone through backwards to draw z"
        self.flows = chain_of("FlowPrior", flows, InverseAutoregressive, such_as)
        if any(flow.context for flow in self.flows):
            raise MiniVAEError("FlowPrior: the prior depends on no x, so its flows should be made with context=0")
        self.dim = self.flows[0].dim

    def parts(self):
        return {str(i): flow for i, flow in enumerate(self.flows)}

    def log_prob(self, params, z):
        flow_backward, log_dets = {}, 0
        for name, flow in self.parts().items():
            (z, log_det), flow_backward[name] = flow.forward(within(params, name), z)
            log_dets = log_dets + log_det[:, 0]
        log_noise, noise_backward = standard_normal_log_prob(z)

        def backward(dlog_pz):
            dz, grads = noise_backward(dlog_pz), {}
            for name, one_backward in reversed(flow_backward.items()):
                dz, _, grads[name] = one_backward(dz, dlog_pz[:, None])
            return dz, joined(grads)

        return log_noise + log_dets, backward

    def sample(self, params, n, rng):
        z = rng.standard_normal((n, self.dim), np.float32)
        for name, flow in reversed(self.parts().items()):
            z = flow.inverse(within(params, name), z)
        return z
