"""Credentials and other fields for a proxy, with and without a tunnel."""

import json

import pytest

from dugong import ProxyError

from .drivers import ask, check_body
from .servers import NUMBERED, PROXIES, proxy_authorization


def through(kinds):
    """Run with these proxies, both forwarding (plain) and as a tunnel (TLS)."""
    params = [
        pytest.param((kind.name, scheme), id=f'{kind.__name__}-{scheme}')
        for kind in kinds
        for scheme in ('plain', 'TLS')
    ]
    return pytest.mark.parametrize('server', params, indirect=True, scope='session')


all_proxies = through(PROXIES)
authenticating = through([kind for kind in PROXIES if kind.authenticates])

pytestmark = pytest.mark.feature('proxy authentication')


@authenticating
def test_right_credentials_open_the_proxy(server, conn):
    for name in ('text', 'large'):
        reply = ask(server, conn, '/docs/' + name)
        assert reply.status == 200
        check_body(reply.body, server.site.documents[name])


@authenticating
@pytest.mark.parametrize('given', ['none', 'wrong'])
def test_without_the_right_credentials_the_proxy_refuses(server, given):
    status = server.wrong_credentials if given == 'wrong' else 407
    headers = proxy_authorization(password='wrong') if given == 'wrong' else None
    with server.connection(proxy_headers=headers) as conn:
        if server.tls is None:
            assert ask(server, conn, '/docs/text').status == status
        else:
            with pytest.raises(ProxyError) as caught:
                ask(server, conn, '/docs/text')
            assert caught.value.status == status


@authenticating
def test_the_origin_never_sees_the_credentials(server, conn):
    # When it forwards, it is the proxy that keeps them.
    fields = json.loads(ask(server, conn, '/fields').body)
    assert 'proxy-authorization' not in fields


@authenticating
def test_each_request_of_a_pipeline_is_authenticated(server, conn):
    paths = [f'/docs/n/{number}' for number in range(NUMBERED)]
    replies = [(response.status, response.body) for response in conn.pipeline(paths)]
    assert replies == [(200, server.site.documents[f'n/{number}']) for number in range(NUMBERED)]


@all_proxies
def test_other_fields_for_the_proxy_stay_out_of_the_tunnel(server):
    headers = {'X-For-Proxy': 'yes'}
    if server.authenticates:
        headers.update(proxy_authorization())
    with server.connection(proxy_headers=headers) as conn:
        fields = json.loads(ask(server, conn, '/fields').body)
    # A proxy that forwards passes on what it does not know.
    assert fields.get('x-for-proxy') == ('yes' if server.tls is None else None)
