"""The page on a latent space: its programs compute what the model computes, and it holds what was put in."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

import minivae as mv
from minivae import data
from minivae.model.parameters import within
from minivae.views.explore import explore

node, chromium = shutil.which("node"), shutil.which("chromium")
needs_node = pytest.mark.skipif(node is None, reason="needs Node")


@pytest.fixture(scope="module")
def digits():
    return data.load("sample", limit=60)


def dense(n_in, latent, classes=0, **options):
    return mv.VAE(
        [mv.Dense(n_in + classes, 12), mv.ReLU(), mv.Dense(12, 2 * latent)],
        [mv.Dense(latent + classes, 12), mv.Tanh(), mv.Dense(12, n_in)],
        n_classes=classes or None, seed=2, **options,
    )  # fmt: skip


def convolutional():
    encoder = [mv.Reshape((28, 28, 1)), mv.Conv2d(1, 3, 3, stride=2), mv.ReLU(), mv.Flatten(), mv.Dense(507, 6)]
    decoder = [mv.Dense(3, 98), mv.Reshape((7, 7, 2)), mv.ConvTranspose2d(2, 1, 4, stride=4), mv.Flatten()]
    return mv.VAE(encoder, decoder, seed=1)


def bent():
    """A model with a flow as posterior, whose steps do something."""
    steps = [mv.InverseAutoregressive(2, 6, context=2), mv.Planar(2)]
    encoder = [mv.Dense(784, 12), mv.ReLU(), mv.Dense(12, 6)]
    return mv.VAE(encoder, [mv.Dense(2, 784)], posterior=mv.FlowPosterior(steps), seed=3)


MODELS = {
    "a flow as posterior": bent,
    "two dimensions": lambda: dense(784, 2),
    "one dimension": lambda: dense(784, 1),
    "six dimensions": lambda: dense(784, 6, likelihood=mv.Gaussian(1.0), dtype="float64"),
    "conditional": lambda: dense(784, 3, 10),
    "convolutional": convolutional,
}
RUN = """
{program}
const mean = (point, k) => {{ page.decoder.arrays.z.set(point);
    if (page.classes) page.decoder.arrays.y[k] = 1;
    page.decoder.run(); return page.decoder.arrays.mean; }};
page.encoder.arrays.x.set(Array.from(page.examples.subarray(0, page.X), p => p / 255));
if (page.classes) page.encoder.arrays.y[page.exampleClasses[0]] = 1;
page.encoder.arrays.eps.fill(0.5);
page.encoder.run();
const {{mu, log_var, z}} = page.encoder.arrays;
console.log([...mu, ...log_var, ...z, ...mean(mu, 4), ...page.points].join(' '));
"""


def program_of(page):
    return re.findall(r"<script>\n(.*?)</script>", page, re.S)[0]


@needs_node
@pytest.mark.parametrize("name", MODELS)
def test_the_page_computes_what_the_model_computes(name, digits, tmp_path):
    vae = MODELS[name]()
    y = digits.y_test
    page = explore(vae, digits.x_test, y, digits.class_names)
    (tmp_path / "page.js").write_text(RUN.format(program=program_of(page)))
    out = subprocess.run([node, tmp_path / "page.js"], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    numbers = np.array(out.stdout.split(), "f8")
    D, n = vae.latent_dim, len(digits.x_test)
    mu, log_var = vae.encode(digits.x_test, y if vae.n_classes else None)
    np.testing.assert_allclose(numbers[:D], mu[0], 1e-5, 1e-5)
    np.testing.assert_allclose(numbers[D : 2 * D], log_var[0], 1e-5, 1e-5)
    ((batch, labels),) = vae._batches(vae.check_input(digits.x_test[:1]), y[:1] if vae.n_classes else None, 1)
    stats, noise = vae._encode(vae._params, batch, labels), np.full((1, 1, D), 0.5, vae.dtype)
    (z, _), _ = vae.posterior.with_log_q(within(vae._params, "posterior"), stats, noise)
    np.testing.assert_allclose(numbers[2 * D : 3 * D], z[0, 0], 1e-5, 1e-5)
    mean, points = numbers[3 * D : 3 * D + 784], numbers[3 * D + 784 :].reshape(n, 2)
    np.testing.assert_allclose(mean, vae.decode(mu[:1], 4 if vae.n_classes else None)[0], 1e-5, 1e-5)
    if D <= 2:
        np.testing.assert_allclose(points[:, :D], mu, 1e-6)
    else:  # the same distances as in the plane of the two largest variances
        variances = np.linalg.eigvalsh(np.cov(mu.T))[::-1][:2]
        np.testing.assert_allclose(points.var(axis=0, ddof=1), variances, 1e-4)


@needs_node
def test_many_weights_are_rounded_to_16_bits(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("minivae.views.explore.MOST_WEIGHTS", 1000)
    vae = dense(784, 2)
    vae.parameters.flat[:4] = [0, -6e-6, 3.1e-8, 2000]
    program = program_of(explore(vae, digits.x_test))
    assert "rounded to 16 bits" in program
    (tmp_path / "page.js").write_text(f"{program}\nconsole.log([...page.decoder.arrays.parameters].join(' '));")
    out = subprocess.run([node, tmp_path / "page.js"], capture_output=True, text=True, check=True).stdout
    np.testing.assert_array_equal(np.array(out.split(), "f4"), vae.parameters.flat.astype("f2").astype("f4"))


def test_it_is_one_file_below_3_megabytes(digits):
    """Of the tutorial's network, with nothing that is fetched from elsewhere."""
    vae = mv.VAE([mv.Dense(784, 256), mv.ReLU(), mv.Dense(256, 4)], [mv.Dense(2, 256), mv.ReLU(), mv.Dense(256, 784)])
    page = explore(vae, digits.x_test, title="<b>&")
    assert len(page) < 3e6 and not re.search(r"https?://|src=|@import|<link", page)
    assert "<title>&lt;b&gt;&amp;</title>" in page and "{{" not in page.split("<script>")[0]


def test_a_convolutional_model_makes_a_page_below_3_megabytes(digits):
    images = np.random.default_rng(0).integers(0, 256, (2000, 784), np.uint8)  # which nothing could compress
    assert len(explore(mv.convnet((28, 28)), images, np.arange(2000) % 10).encode()) < 3e6


@pytest.mark.parametrize("varies, n", [(True, 1), (False, 9)])
def test_means_that_do_not_vary_have_a_plane_too(varies, n, digits):
    """Of one example, or of an encoder that has collapsed."""
    vae = dense(784, 6)
    vae.parameters["encoder.2.W"][...] *= varies
    page = explore(vae, digits.x_test[:n])
    assert "principal component 1 (0% of the variance)" in page and "NaN" not in program_of(page)


COUNT = """
const image = ink.getImageData(0, 0, size, size).data, colours = {};
for (let i = 0; i < image.length; i += 4) {
    const key = image.subarray(i, i + 3).join();
    colours[key] = (colours[key] || 0) + 1;
}
document.title = ['154,165,177', '200,30,30', '255,212,0'].map(key => colours[key] || 0).join(' ');
"""


def flow_prior():
    return mv.FlowPrior([mv.InverseAutoregressive(2, 8), mv.InverseAutoregressive(2, 8, reverse=True)])


@pytest.mark.parametrize("make", [lambda: mv.MixturePrior(2, 3), lambda: mv.VampPrior(2, 784, 4), flow_prior])
def test_lines_of_equal_density_of_any_prior(make, digits):
    """Of the model's own log p(z), and so high that 10, 50, 90 and 99% of the draws lie within them."""
    vae = dense(784, 2, prior=make())
    rng = np.random.default_rng(0)
    for name, values in vae.parameters.items():
        if name.startswith("prior") and name != "prior.u":
            values[...] += rng.normal(0, 0.3, values.shape)
    facts = json.loads(re.search(r"^const page = (.*);$", explore(vae, digits.x_test), re.M)[1])
    log_pz = [vae.log_prior(np.reshape(line, (-1, 2))) for line in facts["priorLines"]]
    assert max(map(np.ptp, log_pz)) < 0.05
    drawn = vae.log_prior(vae.draw_prior(20_000, rng))
    shares = {round(float((drawn > line.mean()).mean()), 1) for line in log_pz}
    assert shares == {0.1, 0.5, 0.9, 1.0}


@pytest.mark.skipif(chromium is None, reason="needs Chromium")
@pytest.mark.parametrize(
    "make, text, lines",
    [
        (bent, "The ring is .* The circles are", True),
        (lambda: dense(784, 2, prior=mv.MixturePrior(2, 3)), "The ellipses are .* The grey lines hold", True),
        (lambda: dense(784, 1, prior=mv.MixturePrior(1, 3)), "The ellipses are .* ", False),
    ],
    ids=["a flow as posterior", "another prior", "one dimension with another prior"],
)
def test_what_the_plane_shows(make, text, lines, digits, tmp_path):
    """Circles of N(0, I) or lines of another prior, ellipses of a Gaussian; example and z have a mark in each plane."""
    page = explore(make(), digits.x_test)
    (tmp_path / "page.html").write_text(page.replace("choose(0);\n", f"choose(0);\ndrawPlane();\n{COUNT}"))
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += ["--virtual-time-budget=3000", f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path}/page.html"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60)
    shown = " ".join(re.findall(r'id="p[a-z]+-text">(.*?)<', out.stdout)[::-1])
    assert "CONSOLE" not in out.stderr and re.match(text, shown), shown
    grey, red, yellow = map(int, re.findall(r"<title>(\d+) (\d+) (\d+)</title>", out.stdout)[0])
    assert (grey > 500) == lines and red > 20 and yellow > 100


def test_class_names_cannot_break_the_page(digits):
    names = ["</script><script>alert(1)</script>", *map(str, range(9))]
    page = explore(dense(784, 2), digits.x_test, digits.y_test, names)
    assert page.count("</script>") == 2


def test_what_is_no_picture_is_refused():
    with pytest.raises(mv.MiniVAEError, match="x should lie in 0 .. 1, got -.* .. "):
        explore(dense(16, 2, likelihood=mv.Gaussian(1.0)), np.random.default_rng(0).standard_normal((5, 16)))
    with pytest.raises(mv.MiniVAEError, match="15 values are no image"):
        explore(dense(15, 2), np.zeros((3, 15)))
