"""Each mistake of the museum fails the test that it names; the gradient check sees no more of them than it says."""

import contextlib
import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("museum", ROOT / "examples" / "mistakes" / "museum.py")
museum = sys.modules["museum"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(museum)

OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-k", "not numba and not fake"]


def outcome(node):
    """The exit code of a test of this repository, run in this process."""
    with contextlib.redirect_stdout(io.StringIO()):
        return pytest.main([*OPTIONS, "--rootdir", str(ROOT), "-c", str(ROOT / "setup.cfg"), str(ROOT / node)])


@pytest.mark.parametrize("mistake", museum.MISTAKES, ids=lambda mistake: mistake.name)
def test_the_named_test_catches_the_mistake(mistake):
    assert outcome(mistake.caught_by) == pytest.ExitCode.OK
    with mistake.put_in():
        assert outcome(mistake.caught_by) == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("mistake", museum.MISTAKES, ids=lambda mistake: mistake.name)
def test_the_gradient_check_sees_what_it_is_said_to_see(mistake):
    assert mistake.passes_gradcheck()
    with mistake.put_in():
        assert mistake.passes_gradcheck() is not mistake.gradcheck_sees


def test_the_gradient_does_not_grow_with_the_batch():
    vae, x = museum.small_model({}), np.random.default_rng(0).random((4, 6))
    gradients = []
    for times in (1, 3):
        vae.loss_and_gradients(np.tile(x, (times, 1)), np.zeros((4 * times, 2)))
        gradients.append(vae.gradients.flat.copy())
    np.testing.assert_allclose(*gradients, rtol=1e-12, atol=1e-12)


def test_without_a_mistake_all_trainings_go_on_to_their_end():
    """Except where the data are refused, as the page says."""
    found = json.loads(museum.MEASURED.read_text())["without"]
    assert list(found) == list(museum.SETTINGS)
    for name, setting in museum.SETTINGS.items():
        assert len(found[name]["reported"]) == (0 if setting.standardized else museum.EPOCHS), name
        assert (museum.without(name, {"without": found}) == "these data are refused") is setting.standardized


def test_in_the_setting_of_the_bounds_only_their_absence_breaks_a_training(monkeypatch):
    monkeypatch.setattr(museum, "EPOCHS", 1)
    (mistake,) = (mistake for mistake in museum.MISTAKES if mistake.name == "log_var not held")
    setting = museum.SETTINGS[mistake.setting]
    assert len(museum.train(setting)[1]["reported"]) == 1
    assert museum.train(setting, mistake)[1] == {"reported": [], "right": None}


def test_the_page_is_that_of_the_list():
    assert museum.PAGE.read_text() == museum.page()
