"""Coverage-guided fuzzing of everything that reads a response, with atheris.

An input is one character of options (see `check_stream`; `@` is none), then what the server
sends. It is read through an `HTTPConnection`, whole, bytewise and through a small buffer. That
must give the same each time: answers, and perhaps one of our exceptions, after which nothing is
delivered until a reset. See README.rst for how to run it.
"""

import os
import sys
import tempfile

import atheris

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, '..', '..'), os.path.join(HERE, '..')]

with atheris.instrument_imports(include=['dugong']):
    import dugong

from fuzz_support import LIMITS, check_input  # noqa: E402
from wire_support import Wire  # noqa: E402

wire = Wire()


def main() -> None:
    for name, value in LIMITS.items():
        setattr(dugong, name, value)
    defaults = [f'-dict={os.path.join(HERE, "http.dict")}', '-max_len=1024', '-timeout=30']
    if all(argument.startswith('-') for argument in sys.argv[1:]):
        # New inputs go to the first directory.
        found = os.path.join(tempfile.gettempdir(), 'dugong-fuzz-corpus')
        os.makedirs(found, exist_ok=True)
        defaults += [found, os.path.join(HERE, 'corpus')]
    atheris.Setup([sys.argv[0], *defaults, *sys.argv[1:]], lambda data: check_input(wire, data))
    atheris.Fuzz()


if __name__ == '__main__':
    main()
