"""What only a fast server can show."""

import resource

import pytest

from .drivers import check_body
from .servers import NUMBERED, Nginx

#: Requests that nginx takes on one connection if its configuration says nothing.
DEFAULT_KEEPALIVE = 1000


@pytest.fixture(scope='module')
def nginx(make_starter):
    starter = make_starter()
    yield starter(Nginx, keepalive=DEFAULT_KEEPALIVE)
    starter.close()


def peak():
    """The most memory that this process ever had, in KiB (in bytes on some systems)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.slow
def test_a_hundred_thousand_documents_in_one_pipeline(nginx):
    count = 100000
    paths = (f'/docs/n/{number % NUMBERED}' for number in range(count))
    with nginx.connection() as conn:
        pipeline = conn.pipeline(paths)
        for number, response in enumerate(pipeline):
            assert response.status == 200
            check_body(response.body, nginx.site.documents[f'n/{number % NUMBERED}'])
            if number == count // 10:
                settled = peak()
        assert number == count - 1
        assert pipeline.connections == count // DEFAULT_KEEPALIVE
        # Growing with the number of requests, a few bytes for each would show.
        assert peak() - settled < 2048
