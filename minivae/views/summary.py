"""A model as a table: its layers, the shapes of what they give, and how many parameters they hold."""

from dataclasses import dataclass

from ..errors import rows_of
from ..model.priors import StandardNormal
from .tables import html_table, text_table


@dataclass(frozen=True)
class Row:
    """One layer of the encoder or the decoder, or another part that has parameters."""

    part: str
    name: str
    layer: str
    output: tuple | None  # the shape of one row
    parameters: int


def rows(vae):
    """The Rows of a model: the encoder's layers, the posterior's samples, the decoder's layers, other parts.

    The prior is among them where it is not the standard normal.
    """
    table = _layer_rows(vae, "encoder", vae.encoder)
    table.append(_other_row(vae, "posterior", vae.posterior, (vae.latent_dim,)))
    table += _layer_rows(vae, "decoder", vae.decoder)
    table.append(_other_row(vae, "likelihood", vae.likelihood, (vae.input_dim,)))
    if type(vae.prior) is not StandardNormal:
        table.append(_other_row(vae, "prior", vae.prior, (vae.latent_dim,)))
    return table


def summary(vae):
    """A text table of a model's layers, the shapes of their outputs, and their parameter counts.

    B stands for the batch. The last line counts the encoder's, the decoder's and all parameters.
    """
    table = text_table(_lines(vae), "<<<>")
    return f"{table}\n{table.splitlines()[1]}\n{_counts(vae)}"


def html_summary(vae):
    """The same as HTML, for notebooks."""
    return html_table(_lines(vae), "<<<>", _counts(vae))


def _lines(vae):
    lines = [("layer", "kind", "output", "parameters")]
    return lines + [(row.name, row.layer, rows_of(row.output), f"{row.parameters:,}") for row in rows(vae)]


def _counts(vae):
    table = rows(vae)
    counts = [
        f"{part} {count:,}"
        for part in ("encoder", "decoder", "posterior", "likelihood", "prior")
        if (count := sum(row.parameters for row in table if row.part == part))
    ]
    return f"{vae.parameters.flat.size:,} parameters of {vae.dtype.name}: {' + '.join(counts)}"


def _layer_rows(vae, part, sequential):
    table, shape = [], sequential.input_shape
    for i, layer in enumerate(sequential.layers):
        shape = layer.output_shape(shape)
        name = f"{part}.{i}"
        table.append(Row(part, name, type(layer).__name__, shape, _count(vae, name)))
    return table


def _other_row(vae, part, module, output):
    return Row(part, part, type(module).__name__, output, _count(vae, part))


def _count(vae, name):
    return sum(values.size for key, values in vae.parameters.items() if key.startswith(f"{name}."))
