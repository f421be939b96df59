"""Whatever a file holds: a reader gives what it holds or one clear error, soon, in little memory, and never crashes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import minivae as mv

HUNT = Path(__file__).with_name("damaged.py")


def hunt(n, seed):
    """In a process of its own, which a crash would end and whose memory is limited."""
    environment = os.environ | {"PYTHONPATH": str(Path(mv.__file__).parent.parent)}
    command = [sys.executable, HUNT, str(n), str(seed)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    print(ended.stdout)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-1000:]


def test_a_few_hundred_damaged_files_raise_nothing_raw():
    hunt(340, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_fifty_thousand_damaged_files_raise_nothing_raw(seed):
    hunt(10_200, seed)
