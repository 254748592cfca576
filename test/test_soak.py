"""The soak test, for a short time; by itself it runs as long as one likes."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

SCRIPT = Path(__file__).resolve().parent / 'soak' / 'asyncio_soak.py'


@pytest.mark.slow
@pytest.mark.parametrize('options', [[], ['--tls'], ['--uvloop']], ids=' '.join)
def test_asyncio(options: List[str]) -> None:
    if '--uvloop' in options and importlib.util.find_spec('uvloop') is None:
        pytest.skip('uvloop is missing')
    process = subprocess.run(
        [sys.executable, '-W', 'error', str(SCRIPT), *options, '5'],
        capture_output=True,
        timeout=100,
    )
    assert process.returncode == 0, process.stderr.decode()
    assert process.stderr == b''
    assert b'responses: ' in process.stdout
