"""The pages: their blocks of code run, their commands are understood, and what they say of the package is so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minivae as mv
from minivae import data
from minivae.cli import parser
from minivae.engine.tracing import FUNCTIONS
from minivae.training.fit import OLD_SPELLINGS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(mv.__file__).parent.parent), "PYTHONWARNINGS": "error"}


def blocks(page, language="python"):
    """The blocks of code of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.M | re.S)


def program(folder, code, name="extending.py"):
    """A finished process that ran the code."""
    (folder / name).write_text(code)
    command = [sys.executable, str(folder / name)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=ENVIRONMENT, timeout=300)


def split(part):
    """The page's program up to a block that has these words, and that block with the rest."""
    code = blocks(PAGE)
    (at,) = (i for i, block in enumerate(code) if part in block)
    return "\n\n".join(code[:at]), "\n\n".join(code[at:])


def test_parts_of_ones_own_pass_their_checks_and_are_compiled(tmp_path):
    before, _ = split("class Softsign")
    assert before.count("result.passed") == 6 and "optimizer=Adagrad" in before
    process = program(tmp_path, before)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""


@pytest.mark.parametrize("engine", ["numba"])
def test_other_engines_compile_them_too(engine, tmp_path):
    pytest.importorskip("minivae.engine.loops", exc_type=ImportError)
    before, _ = split("class Softsign")
    before = before.replace("    bound=Renyi(),\n)", f'    bound=Renyi(),\n    backend="{engine}",\n)')
    process = program(tmp_path, before.replace('dtype="float64")', f'dtype="float64", backend="{engine}")'))
    assert (process.returncode, process.stderr) == (0, "")


def test_a_part_that_looks_at_values_gives_one_message_and_trains_as_well(tmp_path):
    before, after = split("class Softsign")
    guard = after[after.index("        assert np.isfinite") : after.index("        scale =")]
    save = 'np.save("{}.npy", vae.parameters.flat)'
    guarded = program(tmp_path, "\n\n".join([before, after, save.format("guarded")]))
    plain = program(tmp_path, "\n\n".join([before, after.replace(guard, ""), save.format("plain")]), "plain.py")
    assert guarded.returncode == plain.returncode == 0, guarded.stderr + plain.stderr
    assert plain.stderr == ""
    (message,) = guarded.stderr.splitlines()
    shown = re.search(r"^    (minivae: this step .*\n    .*)$", PAGE, re.M)[1]
    assert " ".join(message.split()) == " ".join(shown.split())
    np.testing.assert_array_equal(np.load(tmp_path / "guarded.npy"), np.load(tmp_path / "plain.npy"))


# ------------------------------------------------------------------------------------------------ README.md


README = (ROOT / "README.md").read_text()


@pytest.fixture
def few_digits(tmp_path):
    """A folder that has an MNIST of 150 digits."""
    digits = data.load("sample", limit=150)
    for stem, images, labels in (
        ("train", digits.x_train, digits.y_train),
        ("t10k", digits.x_test, digits.y_test),
    ):
        data.write_idx(tmp_path / f"{stem}-images-idx3-ubyte", images)
        data.write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", labels.astype("uint8"))
    return tmp_path


@pytest.fixture
def photographs(tmp_path):
    """Twenty small pictures in colour, in two sub-folders."""
    from PIL import Image

    for i in range(20):
        folder = tmp_path / "photographs" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (9, 12, 3)).astype("u1")
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_the_programs_of_the_readme_run(few_digits, photographs, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "MINIVAE_DATA", str(few_digits))
    code = "\n\n".join(blocks(README)).replace('backend="auto"', 'backend="numpy"')
    process = program(few_digits, code + "\nprint(len(history), history.best_epoch)", "readme.py")
    assert process.returncode == 0, process.stderr
    assert process.stderr == "there is no checkpoint training.safetensors yet: starting from the beginning\n"
    epochs, best = map(int, process.stdout.split()[-2:])
    assert 0 < best <= epochs <= 30
    assert mv.load(few_digits / "digits.safetensors").latent_dim == 2


def test_the_commands_of_the_readme_are_understood():
    commands = [line.split("#")[0] for block in blocks(README, "sh") for line in block.splitlines()]
    of_minivae = [command.split()[1:] for command in commands if command.startswith("minivae ")]
    assert len(of_minivae) >= 4
    for words in of_minivae:
        parser().parse_args(words)
    commands = [command[command.index("python ") :].split() for command in commands if "python " in command]
    assert len(commands) >= 5
    for command in commands:
        command = command[3:] if command[0] == "mpiexec" else command
        if command[1] == "-m":
            program = command[1:4]
            assert program[1] == "minivae"
        else:
            program = [str(ROOT / command[1])]
        known = subprocess.run([sys.executable, *program, "--help"], capture_output=True, text=True, env=ENVIRONMENT)
        assert known.returncode == 0, known.stderr
        for word in command[2:]:
            assert word in known.stdout, command


def test_the_changelog_has_all_new_names_and_old_spellings():
    changes = (ROOT / "CHANGELOG.md").read_text().split("## 0.1.0")[0]
    names = re.search(r"- New names: (.*?)\n- ", changes, re.S)[1]
    assert set(re.findall(r"`(\w+)`", names)) <= set(mv.__all__)
    assert all(f"`{old}" in changes or f" {old}=" in changes for old in OLD_SPELLINGS)


def test_the_program_of_the_page_on_the_zoo(tmp_path):
    page = (ROOT / "docs" / "zoo.md").read_text()
    process = program(tmp_path, "\n\n".join(blocks(page)), "zoo.py")
    assert (process.returncode, process.stderr) == (0, "") and " (3, 12)\n" in process.stdout
    assert set(re.findall(r"^\| `(\w+\.py)`", page, re.M)) | {"__init__.py"} == {
        path.name for path in Path(mv.__file__).parent.joinpath("zoo").glob("*.py")
    }


@pytest.mark.parametrize(
    "page",
    ["README.md", "examples/README.md", "CHANGELOG.md"]
    + [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))],
)
def test_files_that_a_page_names_are_there(page):
    text, folder = re.sub(r"\[[^\]]*\]\(https?:[^)]*\)", "", (ROOT / page).read_text()), (ROOT / page).parent
    links = re.findall(r"\]\(([^)#]+)[)#]|src=\"([^\"]+)\"", text)
    for name in filter(None, (part for link in links for part in link)):
        assert (folder / name).exists(), name
    for name in re.findall(r"\b(?:minivae|examples|docs|tests|benchmarks)/[\w/-]+(?:\.\w+|/)", text):
        assert (ROOT / name).exists(), name
    if folder.name == "examples":
        for name in re.findall(r"`(\w+\.py)\b", text):
            assert (folder / name).exists(), name


# -------------------------------------------------------------------------------- the list of what is known


def named_functions():
    """The functions of NumPy in the page's table."""
    table = PAGE[PAGE.index("| of each element") : PAGE.index("Shapes and dtypes are known")]
    return {getattr(np, name) for name in re.findall(r"`np\.(\w+)`", table)}


def test_the_table_has_all_that_is_known():
    reductions_and_others = set(FUNCTIONS) - {np.shape, np.ndim}
    ufuncs = {function for function in named_functions() if isinstance(function, np.ufunc)}
    assert named_functions() - ufuncs == reductions_and_others
    llvm = pytest.importorskip("minivae.engine.llvm", exc_type=ImportError)
    operators = {np.add, np.subtract, np.multiply, np.divide, np.equal, np.not_equal}
    operators |= {np.less, np.less_equal, np.greater, np.greater_equal}
    assert ufuncs | operators == {function for function in llvm.FUNCTIONS if isinstance(function, np.ufunc)}


def call(function, x, y):
    """What the function makes of two arrays, for functions of one or two of them."""
    others = {
        np.broadcast_to: lambda: function(x, (2, *x.shape)),
        np.clip: lambda: function(x, -0.5, 0.5),
        np.concatenate: lambda: function([x, y]),
        np.expand_dims: lambda: function(x, 0),
        np.full_like: lambda: function(x, 3.0),
        np.moveaxis: lambda: function(x, 0, 1),
        np.reshape: lambda: function(x, (-1,)),
        np.stack: lambda: function([x, y]),
        np.swapaxes: lambda: function(x, 0, 1),
        np.where: lambda: function(x > y, x, y),
    }
    reductions = {f: lambda f=f: f(x, axis=1) for f in (np.sum, np.mean, np.max, np.min)}
    if function in others | reductions:
        return (others | reductions)[function]()
    value = function(x, y) if getattr(function, "nin", 1) == 2 else function(x)
    return value.astype(x.dtype) if value.dtype == bool else value


def test_other_ufuncs_are_compiled_on_numpy(capsys):
    from scipy.special import expit

    arrays = {"x": np.linspace(-2, 2, 5), "y": np.zeros(5)}
    mv.get_backend("numpy").compile(lambda a: {"y": expit(a["x"]) + np.arctan2(a["x"], 2.0)}, arrays)()
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(arrays["y"], expit(arrays["x"]) + np.arctan2(arrays["x"], 2.0))


def test_each_function_in_the_table_is_compiled(backend, capsys):
    rng = np.random.default_rng(0)
    for function in sorted(named_functions(), key=lambda function: function.__name__):
        x, y = rng.uniform(0.1, 2, (2, 3, 4)).astype("float32")
        wanted = call(function, x, y)
        arrays = {"x": x, "y": y, "out": np.zeros_like(wanted)}
        held = {name: backend.asarray(array) for name, array in arrays.items()}
        backend.compile(lambda a, function=function: {"out": call(function, a["x"], a["y"]) * 1}, held, "float32")()
        assert capsys.readouterr().err == "", function.__name__
        np.testing.assert_allclose(backend.to_host(held["out"]), wanted, rtol=1e-5, err_msg=function.__name__)
