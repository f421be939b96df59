"""The gradients of whole models against an independent autograd, where PyTorch is installed."""

import numpy as np
import pytest

import minivae as mv

torch = pytest.importorskip("torch")

ACTIVATIONS = {mv.ReLU: torch.relu, mv.Tanh: torch.tanh, mv.Sigmoid: torch.sigmoid}


def random_model(rng, likelihood, **parts):
    sizes = rng.integers(3, 40, rng.integers(2, 5)).tolist()
    latent = int(rng.integers(1, 6))

    def stack(widths):
        layers = []
        for n_in, n_out in zip(widths, widths[1:], strict=False):
            layers += [mv.Dense(n_in, n_out), list(ACTIVATIONS)[rng.integers(3)]()]
        return layers[:-1]

    encoder, decoder = stack([*sizes, 2 * latent]), stack([latent, *sizes[::-1]])
    beta, seed = float(rng.uniform(0.1, 2)), int(rng.integers(100))
    vae = mv.VAE(encoder, decoder, likelihood, beta=beta, seed=seed, **parts)
    for name, view in vae.parameters.items():
        if name.endswith(".b"):
            view[...] = rng.standard_normal(view.shape)
    return vae


def torch_terms(vae, tensors, x, eps):
    """log p(x given z), log p(z), log q and the analytic KL by PyTorch."""

    def run(name, layers, h):
        for i, layer in enumerate(layers):
            if isinstance(layer, mv.Dense):
                h = h @ tensors[f"{name}.{i}.W"] + tensors[f"{name}.{i}.b"]
            else:
                h = ACTIVATIONS[type(layer)](h)
        return h

    normal = torch.distributions.Normal
    mu, log_var = run("encoder", vae.encoder.layers, x).chunk(2, dim=1)
    q = normal(mu, (log_var / 2).exp())
    z = mu + (log_var / 2).exp() * eps
    out = run("decoder", vae.decoder.layers, z)
    if isinstance(vae.likelihood, mv.Bernoulli):
        log_px = -torch.nn.functional.binary_cross_entropy_with_logits(out, x.expand_as(out), reduction="none")
    else:
        log_px = normal(out, vae.likelihood.std).log_prob(x)
    prior = normal(torch.zeros_like(mu), torch.ones_like(mu))
    kl = torch.distributions.kl_divergence(q, prior).sum(-1)
    return log_px.sum(-1), kl, (q.log_prob(z) - prior.log_prob(z)).sum(-1)


@pytest.mark.parametrize("case", range(12))
def test_loss_and_gradients_agree_with_autograd(case):
    rng = np.random.default_rng(case)
    weighted = case % 3 == 2
    parts = {"bound": mv.ImportanceWeighted()} if weighted else {}
    vae = random_model(rng, mv.Gaussian(0.7) if case % 2 else mv.Bernoulli(), **parts)
    B, L = int(rng.integers(1, 20)), int(rng.integers(1, 4))
    x = rng.random((B, vae.input_dim), np.float32)
    eps = rng.standard_normal((L, B, vae.latent_dim), np.float32)

    tensors = {name: torch.tensor(view, requires_grad=True) for name, view in vae.parameters.items()}
    log_px, kl, sampled_kl = torch_terms(vae, tensors, torch.tensor(x), torch.tensor(eps))
    if weighted:
        log_w = log_px - vae.beta * sampled_kl
        loss = -(torch.logsumexp(log_w, 0) - np.log(L)).mean()
    else:
        loss = vae.beta * kl.mean() - log_px.mean()
    loss.backward()

    losses = vae.loss_and_gradients(x, eps)
    assert losses.loss == pytest.approx(loss.item(), rel=1e-5)
    for name, tensor in tensors.items():
        expected = tensor.grad.numpy()
        error = np.abs(vae.gradients[name] - expected).max() / np.abs(expected).max()
        assert error < 1e-5, f"{name}: {error:.1e}"
