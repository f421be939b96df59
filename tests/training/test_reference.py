"""Version 0.1's numbers: the course of seven trainings, and files that it wrote, are what they were.

`tests/reference` holds them: the recipes in models.py, their losses and weights in version-0.1.json, and a model and a
training in the files of its checkpoints.
"""

import json
import shutil
from pathlib import Path

import killable
import numpy as np
import pytest
from reference import models

import minivae as mv
from minivae.model import parameters

REFERENCE = Path(models.__file__).parent
COURSES = json.loads((REFERENCE / "version-0.1.json").read_text())["recipes"]
FILES = json.loads((REFERENCE / "checkpoints-0.1.json").read_text())
TOLERANCES = {"float64, 20 steps": 1e-10, "float64, 200 steps": 1e-8, "float32, 20 steps": 1e-5}


@pytest.fixture(autouse=True)
def initial_weights_of_version_0_1(monkeypatch):
    """Its key for them, which was the one of default_rng(seed); those of order and noise are what they were."""
    monkeypatch.setattr(parameters, "INITIALISATION", 0)


def train(vae, x, y, epochs, optimizer, options):
    x = x if y is None else (x, y)
    return mv.fit(vae, x, epochs=epochs, batch_size=models.BATCH_SIZE, optimizer=optimizer, **options)


@pytest.mark.parametrize("backend", ["numpy", "numba"], indirect=True)
@pytest.mark.parametrize("course", TOLERANCES)
@pytest.mark.parametrize("name", COURSES)
def test_the_course_of_a_training_is_that_of_version_0_1(name, course, backend):
    """Losses relative to the loss; of the weights, each tensor's sum and sum of squares relative to both."""
    (dtype, steps), tolerance, expected = course.split(", "), TOLERANCES[course], COURSES[name][course]
    epochs = int(steps.split()[0]) * models.BATCH_SIZE // models.N
    seen = models.course(name, train, epochs, backend=backend, dtype=dtype)
    losses, wanted = np.array(seen["losses"]), np.array(expected["losses"])
    assert losses.shape == wanted.shape == (epochs, 3)
    assert (np.abs(losses - wanted) <= tolerance * np.abs(wanted[:, :1])).all()
    assert list(seen["weights"]) == list(expected["weights"])
    for tensor, (total, square) in expected["weights"].items():
        scale = 100 * tolerance * (1 + abs(total) + square)
        np.testing.assert_allclose(seen["weights"][tensor], [total, square], rtol=0, atol=scale, err_msg=tensor)


@pytest.mark.parametrize("file", ["model-0.1.safetensors", "model-0.1.npz"])
def test_a_model_that_version_0_1_saved_gives_the_same_numbers(file):
    vae, x = mv.load(REFERENCE / file), np.random.default_rng(0).random((6, 12))
    losses = vae.evaluate(x, samples=3)
    np.testing.assert_allclose([losses.loss, losses.reconstruction, losses.kl], FILES["model"], rtol=1e-6)
    assert vae.log_likelihood(x, samples=50) == pytest.approx(FILES["log_likelihood"], rel=1e-6)


def test_a_training_that_version_0_1_was_in_goes_on(tmp_path):
    """Four epochs were done with another name for each argument of `fit`; the other five end where 0.1 ended."""
    path = tmp_path / "training.safetensors"
    shutil.copy(REFERENCE / "training-0.1.safetensors", path)
    seen, watch = [], lambda run: seen.append(run.epoch)
    _, history = killable.train(path, epochs=9, n=80, patience=1, val_samples=1, callbacks=[watch])
    assert seen == [5, 6, 7, 8, 9]
    np.testing.assert_allclose([history["train_loss"], history["val_loss"]], FILES["training"], rtol=1e-5)
