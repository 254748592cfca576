"""Process that runs scenarios with one implementation: `compat_runner.py FOLDER`.

Imports dugong from FOLDER, answers `{"version": …}`, then runs one scenario for each line
`{"scenario": name, "port": port}` on standard input and answers `{"result": …}` or
`{"failed": …}`, one line each. What anything prints goes to standard error.
"""

import email.message
import gc
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from compat_support import describe


def plain(value: Any) -> Any:
    """*value* as JSON data that does not depend on addresses or on the implementation."""
    if isinstance(value, str):
        # Header values of 3.8.2 are of a subclass.
        return str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return describe(bytes(value))
    if isinstance(value, BaseException):
        return f'raises {type(value).__name__}'
    if isinstance(value, type):
        return f'type {value.__name__}'
    if isinstance(value, email.message.Message):
        return [f'{name}: {content}' for name, content in value.items()]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if type(value).__name__ == 'HTTPResponse':
        request = f'{value.method} {value.path}'
        fields = ', '.join(plain(value.headers))
        return f'{value.status} {value.reason} for {request} [{fields}] length {value.length}'
    raise TypeError(f'a scenario must not return {value!r}')


def main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)

    def answer(**content: Any) -> None:
        os.write(answers, json.dumps(content).encode() + b'\n')

    sys.path.insert(0, sys.argv[1])
    try:
        import dugong
    except Exception as exc:
        answer(failed=f'import: {type(exc).__name__}: {exc}')
        return
    from compat_scenarios import SCENARIOS

    # Only what the scenarios make is worth looking at each time.
    gc.collect()
    gc.freeze()
    answer(version=dugong.__version__)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            result = plain(SCENARIOS[job['scenario']].run(dugong, job['port']))
        except BaseException as exc:
            answer(failed=f'{type(exc).__name__}: {exc}')
        else:
            # What is left behind must complain before the answer, not in a later scenario.
            gc.collect()
            answer(result=result)


if __name__ == '__main__':
    main()
