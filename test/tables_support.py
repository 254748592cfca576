"""Table-driven tests that run all rows in one test: thousands of rows, each of microseconds."""

import functools
import inspect
from typing import Any, Callable


def rows(*cases: Any) -> Callable[[Any], Any]:
    """Run a test, which takes a parameter `case`, for each of *cases*; report all that fail.

    A fixture `wire` gets a new connection for each.
    """

    def decorate(test: Any) -> Any:
        signature = inspect.signature(test)

        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            failed = {}
            for case in cases:
                if 'wire' in fixtures:
                    fixtures['wire'].restart()
                try:
                    test(case=case, **fixtures)
                except Exception as exc:
                    failed[ascii(case)] = exc
            if failed:
                report = '\n'.join(f'{case}: {exc!r}'[:300] for case, exc in failed.items())
                raise AssertionError(report) from next(iter(failed.values()))

        parameters = [p for name, p in signature.parameters.items() if name != 'case']
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return run

    return decorate
