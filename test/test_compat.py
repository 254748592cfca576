"""The published dugong 3.8.2 and this checkout do the same, but for what is listed here.

Both run the scenarios of `compat_scenarios.py` as black boxes, against the same scripted
servers; what they send, return and raise is compared.
"""

import signal
import socket
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import pytest
from compat_scenarios import SCENARIOS
from compat_support import (
    ABSENT,
    PUBLISHED,
    Implementation,
    Unavailable,
    differences,
    install,
    outcome,
)
from conftest import Certificates

import dugong

pytestmark = pytest.mark.skipif(
    not hasattr(signal, 'setitimer'), reason='the scenarios are limited with POSIX timers'
)

#: What differs on purpose: scenario, where that is promised (a section of the contract or an
#: issue), path of the value in the outcome, value of 3.8.2 and ours.
EXPECTED_DIFFERENCES: Dict[str, Dict[str, Dict[str, Tuple[Any, Any]]]] = {
    'names': {
        'SPEC 1: ProxyError': {
            'result.ProxyError': (ABSENT, 'dugong.ProxyError'),
        },
    },
    'signatures': {
        'SPEC 2: read(n=None)': {
            'result.co_read[0]': ('len_=None', 'n=None'),
            'result.read[0]': ('len_=None', 'n=None'),
        },
    },
    'exception_families': {
        'SPEC 1: a common base of the two DNS errors': {
            'len(result.HostnameNotResolvable)': (1, 2),
            'len(result.DNSUnavailable)': (1, 2),
        },
    },
    'temporary_errors': {
        'SPEC 6: DNS errors other than DNSUnavailable are permanent': {
            "result.gaierror(32, 'x')": (True, False),
        },
    },
    'tracing_of_a_body': {
        'SPEC 13: each traced byte once': {
            'result[2][9]': ('hellohello', 'hello'),
        },
    },
    'warnings_in_the_log': {
        'SPEC 11: nothing is logged at WARNING or above': {
            'len(result)': (1, 0),
        },
    },
    'types_of_what_is_read': {
        'SPEC 2: read returns bytes': {
            'result.read': ('type bytearray', 'type bytes'),
        },
        'SPEC 2: co_read returns a bytearray': {
            'result.co_read all': ('type bytes', 'type bytearray'),
        },
    },
    'empty_requests_to_read': {
        'SPEC 2: a body with nothing left needs no read call': {
            'result[4]': (True, False),
        },
    },
    'body_read_to_its_last_byte': {
        'SPEC 2: a body with nothing left needs no read call': {
            'result.read[1]': (True, False),
            'result.readinto[1]': (True, False),
        },
    },
    'negative_size_to_read': {
        'SPEC 2: negative means all': {
            'result': ('raises AssertionError', "b'hello'"),
        },
    },
    'parsers_that_read_streams': {
        'SPEC 2: read returns bytes, so that C parsers accept it': {
            'result.xml': ('raises ParseError', 'a'),
        },
    },
    'switching_protocols_unasked': {
        'SPEC 4: 101 without Upgrade in the request is UnsupportedResponse': {
            'result': (
                '200 OK for GET / [Content-Length: 5] length 5',
                'raises UnsupportedResponse',
            ),
        },
    },
    'content_lengths': {
        'SPEC 13: numbers from the wire are strict': {
            'result.-5[1]': (-5, None),
            'result.-5[2]': ("b''", 'raises InvalidResponse'),
            'result.+5[1]': (5, None),
            'result.+5[2]': ("b'hello'", 'raises InvalidResponse'),
            'result.1_0[1]': (10, None),
            'result.1_0[2]': ('raises ConnectionClosed', 'raises InvalidResponse'),
        },
        'issue 3: equal values, also as a list, are one': {
            'result.5, 5[1]': (None, 5),
            'result.5, 5[2]': ('raises InvalidResponse', "b'hello'"),
        },
    },
    'several_lengths': {
        'issue 3: differing Content-Length values are an error': {
            'result.others[1]': (5, None),
            'result.others[2]': ("b'hello'", 'raises InvalidResponse'),
        },
    },
    'bad_length_again_and_again': {
        'SPEC 5: after a framing error the same kind of error again': {
            'result[6]': ('raises StateError', 'raises InvalidResponse'),
        },
    },
    'transfer_codings': {
        'SPEC 4: with an unknown transfer coding, reading raises InvalidResponse': {
            'result.identity[2]': ('raises UnsupportedResponse', 'raises InvalidResponse'),
        },
    },
    'chunk_sizes': {
        'SPEC 13: numbers from the wire are strict': {
            'result.0x5[2]': ("b'hello'", 'raises InvalidResponse'),
            'result.+5[2]': ("b'hello'", 'raises InvalidResponse'),
            'result.-5[2]': ("b''", 'raises InvalidResponse'),
            'result. 5[2]': ("b'hello'", 'raises InvalidResponse'),
            'result.1_0[2]': ('raises ConnectionClosed', 'raises InvalidResponse'),
        },
    },
    'chunk_without_line_end': {
        'issue 3: the CRLF after each chunk is checked': {
            'result': ('raises ConnectionClosed', 'raises InvalidResponse'),
        },
    },
    'http10_bodies': {
        'SPEC 13: HTTP/1.0 bodies without length are read until EOF': {
            'result.Nothing: 1[2]': ('raises UnsupportedResponse', "b'hello'"),
        },
    },
    'connection_fields': {
        'SPEC 13: Connection is parsed as a list': {
            'result.close, x-hop[2]': ('raises UnsupportedResponse', "b'hello'"),
            'result.x-hop, close[2]': ('raises UnsupportedResponse', "b'hello'"),
        },
    },
    'field_values_as_sent': {
        'SPEC 13: response header values are the plain strings sent': {
            'result.Date': ('Fri, 01 Jan 2021 00:00:00 +0000', 'Fri, 01 Jan 2021 00:00:00 GMT'),
            'result.X-Encoded': ('é', '=?utf-8?q?=C3=A9?='),
            'result.X-Folded': ('one  two', 'one two'),
            'result.X-Space': ('padded \t', 'padded'),
        },
    },
    'malformed_field_lines': {
        'issue 3: a name must be a token directly followed by a colon; no NUL': {
            'result.no colon': (None, 'raises InvalidResponse'),
            'result.space': (None, 'raises InvalidResponse'),
            'result.no name': ('y', 'raises InvalidResponse'),
            'result.NUL': ('y', 'raises InvalidResponse'),
        },
        'issue 3: bare LF as line end is decided once, the same everywhere': {
            'result.bare LF': ('y', 'raises InvalidResponse'),
        },
    },
    'limits': {
        'SPEC 4: a line or header block, without its line end, of exactly the limit passes': {
            'result.status line 65534': ('raises InvalidResponse', 'passes'),
            'result.status line 65535': ('raises InvalidResponse', 'passes'),
            'result.chunk line 65534': ('raises InvalidResponse', 'passes'),
            'result.chunk line 65535': ('raises InvalidResponse', 'passes'),
            'result.header block 65536': ('raises InvalidResponse', 'passes'),
            'result.header block 65539': ('raises InvalidResponse', 'passes'),
        },
    },
    'transfer_encoding_of_the_caller': {
        'SPEC 3: a Transfer-Encoding of the caller is dropped': {
            'requests[0][0].fields.Transfer-Encoding: chunked': (1, ABSENT),
        },
    },
    'headers_of_the_caller_afterwards': {
        "SPEC 13: caller's headers are not modified": {
            'len(result.CaseInsensitiveDict)': (5, 1),
            'result.CaseInsensitiveDict[0]': ('Accept-Encoding', 'X'),
        },
    },
    'path_with_a_space': {
        'SPEC 3: octets 0x00-0x20 in the path are refused': {
            'result': (200, 'raises ValueError'),
            'len(requests)': (1, 0),
        },
    },
    'stream_as_body': {
        'issue 6: any binary file object as body': {
            'result': ('raises TypeError', 200),
            'len(requests)': (0, 1),
        },
    },
    'body_following_of_length_0': {
        'SPEC 3: BodyFollowing(0) is complete at once': {
            'result': ('raises StateError', '200 OK for PUT /doc [Content-Length: 0] length 0'),
        },
    },
    'body_following_without_length': {
        'issue 6: BodyFollowing() is sent with chunked coding': {
            'result': ('raises ValueError', None),
            'len(requests)': (0, 1),
        },
    },
    'upload_state_errors': {
        'SPEC 2, 14: an answer is pending from the moment its head is sent': {
            'result.pending': (False, True),
        },
    },
    'arrays_as_body': {
        'SPEC 3: a bytes-like body': {
            'result': ('raises TypeError', 200),
            'len(requests)': (0, 1),
        },
    },
    'view_of_numbers_as_body': {
        'issue 6: any memoryview format, lengths are counted in bytes': {
            'requests[0][0].fields.Content-Length: 2': (1, ABSENT),
            'requests[0][0].fields.Content-Length: 4': (ABSENT, 1),
        },
    },
    'writing_odd_things': {
        'issue 6: an empty buffer writes nothing (3.8.2 never returns)': {
            'result.nothing[0]': ('hangs', None),
        },
    },
    'expect100_accepted': {
        'SPEC 2, 14: an answer is pending from the moment its head is sent': {
            'result.between[0]': (False, True),
        },
    },
    'expect100_refused_and_closed': {
        'SPEC 5: after Connection: close, write raises ConnectionClosed': {
            'result[2]': ('raises StateError', 'raises ConnectionClosed'),
        },
    },
    'disconnect_with_an_answer_outstanding': {
        'SPEC 5: ConnectionClosed after disconnect() with an answer outstanding': {
            'result.read': ("b''", 'raises ConnectionClosed'),
            'result.read all': ("b''", 'raises ConnectionClosed'),
            'result.readall': ("b''", 'raises ConnectionClosed'),
            'result.readinto': (0, 'raises ConnectionClosed'),
            'result.discard': (None, 'raises ConnectionClosed'),
            'result.write': ('raises StateError', 'raises ConnectionClosed'),
        },
    },
    'disconnect_within_a_body': {
        'SPEC 5: ConnectionClosed after disconnect() with part of a body outstanding': {
            'result.read_response': ('raises StateError', 'raises ConnectionClosed'),
        },
    },
    'announced_close': {
        'SPEC 5: after Connection: close, send_request sends nothing': {
            'len(requests[0])': (2, 1),
        },
    },
    'request_after_an_announced_close': {
        'SPEC 5: after Connection: close, send_request sends nothing': {
            'len(requests[0])': (2, 1),
        },
    },
    'upload_after_an_announced_close': {
        'SPEC 5: after Connection: close, nothing is sent, write raises ConnectionClosed': {
            'result[2]': (None, 'raises ConnectionClosed'),
            'len(requests[0])': (2, 1),
        },
    },
    'unannounced_close': {
        'SPEC 5: an unannounced close shows from the next send or read': {
            'len(requests[0])': (2, 1),
        },
    },
    'unannounced_close_before_an_upload': {
        'SPEC 5: an unannounced close shows from the next send or read': {
            'len(requests[0])': (2, 1),
        },
    },
    'upload_cut_short_by_an_answer': {
        'SPEC 5: after anything else that broke the connection: ConnectionClosed': {
            'result[4]': ('raises StateError', 'raises ConnectionClosed'),
        },
    },
    'octets_beyond_the_last_response': {
        'SPEC 5: octets beyond the last response are never taken for the next answer': {
            'result[1]': ([200, "b'bad'"], 'raises ConnectionClosed'),
            'len(requests[0])': (2, 1),
        },
    },
    'tls_certificate_as_der': {
        'SPEC 13: get_ssl_peercert(True) gives DER': {
            'result': ('type dict', 'type bytes'),
        },
    },
    'tls_untrusted_certificate': {
        'SPEC 5: a failing connect leaves the object unconnected': {
            'result[2]': (False, True),
        },
    },
    'proxy_tunnel': {
        'SPEC, introduction: RFC 9112 3.2, HTTP/1.1 and a Host field': {
            'requests[0][0].line': (
                'CONNECT localhost:4433 HTTP/1.0',
                'CONNECT localhost:4433 HTTP/1.1',
            ),
            'requests[0][0].fields.Host: localhost:4433': (ABSENT, 1),
        },
    },
    'proxy_refuses_tunnel': {
        'SPEC 6: a refused CONNECT is ProxyError, a ConnectionError': {
            'result.error': ('raises ConnectionError', 'raises ProxyError'),
        },
        'SPEC, introduction: RFC 9112 3.2, HTTP/1.1 and a Host field': {
            'requests[0][0].line': (
                'CONNECT localhost:443 HTTP/1.0',
                'CONNECT localhost:443 HTTP/1.1',
            ),
            'requests[0][0].fields.Host: localhost:443': (ABSENT, 1),
        },
    },
    'proxy_talks_nonsense': {
        'SPEC, introduction: RFC 9112 3.2, HTTP/1.1 and a Host field': {
            'requests[0][0].line': (
                'CONNECT localhost:443 HTTP/1.0',
                'CONNECT localhost:443 HTTP/1.1',
            ),
            'requests[0][0].fields.Host: localhost:443': (ABSENT, 1),
        },
    },
    'name_service_that_asks_to_try_again': {
        'SPEC 7: EAI_AGAIN is checked, too': {
            'result.errors[0]': ('raises DNSUnavailable', 'raises HostnameNotResolvable'),
            'result.errors[1]': ('raises DNSUnavailable', 'raises HostnameNotResolvable'),
            'result.errors[2]': ('raises DNSUnavailable', 'raises HostnameNotResolvable'),
            'len(result.asked)': (1, 3),
        },
    },
    'timeout_of_0': {
        'SPEC 13: a timeout of 0 means at once': {
            'result': ('hangs', 'raises ConnectionTimedOut'),
        },
    },
    'poll_needed': {
        'SPEC 9: a timeout of 0 means not at all': {
            'result.at once, nothing there': ('hangs', False),
        },
    },
    'cancelled_future': {
        'issue 4: cancel() closes the coroutine and removes its watchers': {
            'result[2]': (True, False),
            'result[3]': (True, False),
        },
    },
    'several_futures_on_one_socket': {
        'SPEC 9: several futures may wait for the same direction of one socket': {
            'result': ('raises RuntimeError', ['ready', 'ready']),
        },
    },
}


@pytest.fixture(scope='session')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('compat')


@pytest.fixture(scope='session')
def cafile(certificates: Certificates, folder: Path) -> Path:
    path = folder / 'authority.pem'
    certificates.authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope='session')
def published(cafile: Path, folder: Path) -> Iterator[Implementation]:
    try:
        installed = install(folder / 'published')
        implementation = Implementation(installed, cafile, folder / 'published.txt')
    except Unavailable as exc:
        python = '.'.join(map(str, sys.version_info[:2]))
        pytest.skip(f'no dugong {PUBLISHED} for Python {python} to compare with: {exc}')
    assert implementation.version == PUBLISHED
    yield implementation
    implementation.stop()


@pytest.fixture(scope='session')
def ours(cafile: Path, folder: Path) -> Iterator[Implementation]:
    parent = Path(dugong.__file__).parents[1]
    implementation = Implementation(parent, cafile, folder / 'ours.txt', ('-W', 'error'))
    assert implementation.version == dugong.__version__
    yield implementation
    implementation.stop()


@pytest.mark.parametrize('name', SCENARIOS)
def test_same_as_published(
    name: str, published: Implementation, ours: Implementation, certificates: Certificates
) -> None:
    scenario = SCENARIOS[name]
    old, new = (
        outcome(each, name, scenario.script, certificates.server_context, scenario.tls)
        for each in (published, ours)
    )
    expected = {
        path: values
        for paths in EXPECTED_DIFFERENCES.get(name, {}).values()
        for path, values in paths.items()
    }
    assert differences(old, new) == expected
    assert ours.printed() == ''


def test_expected_differences_belong_to_scenarios() -> None:
    assert set(EXPECTED_DIFFERENCES) <= set(SCENARIOS)


@pytest.mark.slow
def test_install_says_why_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        index = f'http://127.0.0.1:{unused.getsockname()[1]}/'
        monkeypatch.setenv('PIP_INDEX_URL', index)
        with pytest.raises(Unavailable, match='cannot install dugong'):
            install(tmp_path)


def test_broken_package_says_why(cafile: Path, tmp_path: Path) -> None:
    (tmp_path / 'dugong.py').write_text('import no_such_module')
    with pytest.raises(Unavailable, match="No module named 'no_such_module'"):
        Implementation(tmp_path, cafile, tmp_path / 'printed.txt')
