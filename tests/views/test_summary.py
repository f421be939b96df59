"""The layer table."""

import re
from xml.etree import ElementTree

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


# ------------------------------------------------------------------------------------ what notebooks show


def cells(html):
    """The texts of the cells of each row of an HTML table, as a browser reads them."""
    table = ElementTree.fromstring(f"<div>{html}</div>")
    return [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]


def test_a_model_shows_its_table():
    vae = keras_mnist()
    assert repr(vae) == summary(vae)
    html = vae._repr_html_()
    assert cells(html)[:2] == [["layer", "kind", "output", "parameters"], ["encoder.0", "Dense", "(B, 256)", "200,960"]]
    assert html.count("<th ") == 4 and len(cells(html)) == 9 and "404,244 parameters of float32" in html


def test_html_is_escaped():
    layer = type("<b>&", (mv.ReLU,), {})()
    vae = mv.VAE([mv.Dense(3, 3), layer, mv.Dense(3, 2)], [mv.Dense(1, 3)])
    assert cells(vae._repr_html_())[2][1] == "<b>&"


def history(n, **columns):
    return mv.History({"epoch": i + 1, "seconds": 0.126, "train_loss": 100.0 - i} | columns for i in range(n))


def test_a_history_is_a_table():
    table = history(2, train_reconstruction=90.0, train_kl=10.0, val_loss=101.23456, extra="<i>")
    lines = repr(table).splitlines()
    titles = ["epoch", "seconds", "train loss", "reconstr.", "KL", "val loss", "extra"]
    assert re.split("  +", lines[0]) == titles
    assert lines[3].split() == ["2", "0.13", "99.000", "90.000", "10.000", "101.235", "<i>"]
    assert len({len(line) for line in lines}) == 1
    table.best_epoch = 2
    assert repr(table).splitlines()[-1] == "the weights of epoch 2 were kept"
    html = table._repr_html_()
    assert cells(html) == [titles, *(line.split() for line in lines[2:4])]
    assert "the weights of epoch 2 were kept" in html


def test_a_long_history_shows_its_ends():
    lines = repr(history(1000)).splitlines()
    assert [line.split()[0] for line in lines[2:]] == [*"123", "...", *map(str, range(992, 1001))]
    assert "..." not in repr(history(13)) and repr(mv.History()) == "History of no epoch"
    assert mv.History()._repr_html_() == "History of no epoch"


def test_a_part_shows_the_call_that_makes_it():
    for part in (
        mv.Dense(3, 2, init="glorot_normal"),
        mv.Sequential([mv.Dense(3, 2), mv.ReLU()]),
        mv.ClipNorm(mv.Adam(lr=0.01), limit=2.0),
        mv.Gaussian(std=0.5, constants=False),
        mv.FlowPosterior([mv.Planar(2)]),
        mv.Reshape((2, 3)),
    ):
        assert repr(eval(repr(part), vars(mv))) == repr(part)
    assert repr(mv.Dense(3, 2)) == "Dense(3, 2, init='glorot_uniform')"


def test_a_part_of_ones_own_that_forgets_its_settings_has_a_repr_too():
    class Scale(mv.Layer):
        def __init__(self, factor):
            self._factor = factor

    assert repr(Scale(2)) == "Scale()"
