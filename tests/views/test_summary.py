"""The layer table."""

import minivae as mv
from minivae.views.summary import rows, summary


def keras_mnist():
    return mv.VAE(
        encoder=[mv.Dense(784, 256), mv.ReLU(), mv.Dense(256, 4)],
        decoder=[mv.Dense(2, 256), mv.ReLU(), mv.Dense(256, 784)],
    )


def test_counts_of_the_well_known_tutorial(capsys):
    keras_mnist().summary()
    text = capsys.readouterr().out
    assert "404,244 parameters of float32: encoder 201,988 + decoder 202,256" in text
    (line,) = (line for line in text.splitlines() if line.startswith("decoder.0"))
    assert line.split() == ["decoder.0", "Dense", "(B,", "256)", "768"]


def test_rows_name_every_layer_in_order_with_its_output():
    table = rows(keras_mnist())
    assert [(row.name, row.layer, row.output) for row in table] == [
        ("encoder.0", "Dense", (256,)),
        ("encoder.1", "ReLU", (256,)),
        ("encoder.2", "Dense", (4,)),
        ("posterior", "DiagonalGaussian", (2,)),
        ("decoder.0", "Dense", (256,)),
        ("decoder.1", "ReLU", (256,)),
        ("decoder.2", "Dense", (784,)),
        ("likelihood", "Bernoulli", (784,)),
    ]


def test_counts_are_those_of_the_parameters():
    # Eleven layers, so that "encoder.1" is also how "encoder.10" begins.
    vae = mv.VAE(encoder=[mv.Dense(6, 6) for _ in range(11)], decoder=[mv.Dense(3, 6)])
    assert sum(row.parameters for row in rows(vae)) == vae.parameters.flat.size
    assert [row.parameters for row in rows(vae)] == [42] * 11 + [0, 24, 0]
    widths = {len(line) for line in summary(vae).splitlines()[:-1]}
    assert len(widths) == 1
