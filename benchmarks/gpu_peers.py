"""The peers on a GPU: the arms of peers.py with all their data there, and a training step as one CUDA graph."""

from peers import JaxScan, TorchFused


class TorchGPU(TorchFused):
    """PyTorch eager, with its fused Adam; data, order and noise on the GPU, and one read of the loss a pass."""

    device = "cuda"
    tf32 = False

    def __init__(self, workload, weights, images, threads):
        import torch

        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        with torch.device(self.device):
            super().__init__(workload, weights, images, torch.get_num_threads())
            self.images = self.images.to(self.device)
            self.rows = torch.zeros(workload.batch, dtype=torch.int32)
            self.total = torch.zeros(())

    def sequential(self, weights):
        nn, layers = self.torch.nn, []
        for W, _ in weights:
            linear = nn.Linear(*W.shape)
            with self.torch.no_grad():
                linear.weight.copy_(self.torch.from_numpy(W.T.copy()))
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def loss(self, x, eps):
        torch = self.torch
        with torch.no_grad():
            return float(self.negative_elbo(*(torch.from_numpy(array).to(self.device) for array in (x, eps))))

    def step(self):
        x = self.images[self.rows]
        eps = self.torch.randn(len(x), self.workload.latent, device=self.device)
        self.optimizer.zero_grad()
        loss = self.negative_elbo(x, eps)
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach()

    def train(self, order):
        self.total.zero_()
        for rows in self.torch.from_numpy(order).to(self.device):
            self.rows.copy_(rows)
            self.step()
        return float(self.total) / len(order)


class TorchReduceOverhead(TorchGPU):
    """PyTorch's own way to CUDA graphs."""

    def __init__(self, *args):
        super().__init__(*args)
        self.negative_elbo = self.torch.compile(self.negative_elbo, mode="reduce-overhead")


class TorchGraph(TorchGPU):
    """The whole step, optimizer included, captured by hand as PyTorch's manual describes."""

    def __init__(self, *args):
        super().__init__(*args)
        torch = self.torch
        for group in self.optimizer.param_groups:
            group["capturable"] = True
        # The warm-up and the capture must not train: what they change is put back.
        kept = [p.detach().clone() for p in self.parameters()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self.graph):
            super().step()
        with torch.no_grad():
            for p, value in zip(self.parameters(), kept, strict=True):
                p.copy_(value)
                for state in self.optimizer.state[p].values():
                    state.zero_()
        self.step = self.graph.replay

    def parameters(self):
        return [*self.encoder.parameters(), *self.decoder.parameters()]


class JaxGPU(JaxScan):
    """`lax.scan` over a pass; JAX chooses its GPU itself, and rounds products to TF32 unless told not to."""

    precision = "float32"

    def __init__(self, *args):
        import jax

        if jax.default_backend() != "gpu":
            raise SystemExit("JAX sees no GPU: install jax[cuda12], or leave it out with --peers torch")
        jax.config.update("jax_default_matmul_precision", self.precision)
        super().__init__(*args)


class TorchGPUTF32(TorchGPU):
    tf32 = True


class TorchReduceOverheadTF32(TorchReduceOverhead):
    tf32 = True


class TorchGraphTF32(TorchGraph):
    tf32 = True


class JaxGPUTF32(JaxGPU):
    precision = "tensorfloat32"


PEERS = {
    "torch": {
        "torch eager": "TorchGPU",
        "torch.compile, reduce-overhead": "TorchReduceOverhead",
        "torch CUDA graph": "TorchGraph",
    },
    "jax": {"JAX lax.scan": "JaxGPU"},
}
