"""The documentation is true: its programs run, its lists are complete, and it builds."""

import ssl
from pathlib import Path

import pytest
from conftest import Certificates
from documentation_support import (
    ORIGIN,
    PROXY,
    TLS_ORIGIN,
    Program,
    Site,
    programs,
    run_program,
)
from servers import ScriptedServer

PROGRAMS = list(programs())


@pytest.fixture(scope='session')
def server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.authority.issue_cert(TLS_ORIGIN[0]).configure_cert(context)
    return context


@pytest.fixture(scope='session')
def cafile(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('documentation') / 'authority.pem'
    certificates.authority.cert_pem.write_to_path(str(path))
    return path


@pytest.mark.slow
@pytest.mark.parametrize('program', PROGRAMS, ids=lambda each: f'{each.page}:{each.line}')
def test_program_runs_and_prints_what_is_shown(
    program: Program,
    server_context: ssl.SSLContext,
    cafile: Path,
    tmp_path: Path,
) -> None:
    site = Site()
    path = tmp_path / 'program.py'
    path.write_text(program.code, encoding='utf-8')
    with ScriptedServer(site.serve) as origin, ScriptedServer(
        site.serve, server_context
    ) as tls_origin, ScriptedServer(site.proxy) as proxy:
        addresses = {ORIGIN: origin.port, TLS_ORIGIN: tls_origin.port, PROXY: proxy.port}
        result = run_program(path, addresses, cafile)
    assert result.stderr == ''
    assert result.returncode == 0
    if program.output is not None:
        assert result.stdout == program.output
