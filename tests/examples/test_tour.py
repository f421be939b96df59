"""The notebook examples/tour.ipynb runs from top to bottom, and what is in it is what it shows."""

import re
from pathlib import Path

import pytest

import minivae as mv

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

TOUR = Path(__file__).parents[2] / "examples" / "tour.ipynb"

INLINE = """%matplotlib inline
import matplotlib.pyplot as plt
plots.samples(vae, n=4)"""
WITH_A_BAR = "mv.fit(vae, digits.x_test, epochs=2)"


def kinds(cell):
    """What a cell shows: for each output the forms that it has."""
    return [sorted(output.get("data", {})) or output.output_type for output in cell.outputs]


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """The notebook as it is kept, and run again with short trainings and two more cells at its end."""
    kept, run = (nbformat.read(TOUR, as_version=4) for _ in range(2))
    for cell in run.cells:
        cell.source = re.sub(r"epochs=\d+", "epochs=2", cell.source)
    run.cells += map(nbformat.v4.new_code_cell, (INLINE, WITH_A_BAR))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(mv.__file__).parent.parent))
        patch.setenv("OPENBLAS_NUM_THREADS", "1")  # which is faster where others work too
        folder = str(tmp_path_factory.mktemp("tour"))
        nbclient.NotebookClient(run, timeout=120, resources={"metadata": {"path": folder}}).execute()
    return kept, run


@pytest.mark.filterwarnings("default")  # those of Jupyter's own parts
def test_the_tour_runs_and_shows_what_is_kept_in_it(tour):
    kept, run = tour
    for old, new in zip(kept.cells, run.cells[:-2], strict=True):
        if old.cell_type == "code":
            assert kinds(old) == kinds(new), old.source
        assert not [output for output in new.get("outputs", []) if output.output_type == "stream"]


@pytest.mark.filterwarnings("default")
def test_its_tables_and_figures_are_shown_as_such(tour):
    _, run = tour
    shown = [kind for cell in run.cells if cell.cell_type == "code" for kind in kinds(cell)]
    assert shown.count(["image/png", "text/plain"]) == 8  # one of them beside pyplot, and no figure twice
    assert shown.count(["text/html", "text/plain"]) == 4
    results = [cell.outputs[0].data["text/plain"] for cell in run.cells if "result.passed" in cell.source]
    assert [result.split(",")[0] for result in results] == ["(True", "(False"]
    assert "encoder.0." in results[1]


@pytest.mark.filterwarnings("default")
def test_a_training_shows_its_progress(tour):
    *bar, history = tour[1].cells[-1].outputs
    assert "text/html" in history.data
    text = "".join(output.get("text", "") or str(output.data) for output in bar)
    assert "20/20" in text and "Warning" not in text
