"""Who is let in."""

import base64
import string
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpolicy.deploy.access import (
    AccessError,
    authorised,
    check_exposure,
    is_loopback,
    names_this_machine,
    tls_context,
)

TOKEN = "correct-horse-battery"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_nothing(host):
    assert is_loopback(host)
    check_exposure(host, False, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "", "robot.local", "127.0.0.1.example"])
def test_any_other_address_needs_permission_and_a_token(host):
    assert not is_loopback(host)
    with pytest.raises(AccessError, match="allow_remote=true"):
        check_exposure(host, False, TOKEN)
    with pytest.raises(AccessError, match="set a token"):
        check_exposure(host, True, None)
    check_exposure(host, True, TOKEN)


@pytest.mark.parametrize(
    "token", ["", "short", "fifteen letters", "é" * 20, "with a\nnew line in it", " with-spaces-around "]
)
def test_a_weak_token_is_refused_without_being_shown(token):
    with pytest.raises(AccessError) as caught:
        check_exposure("127.0.0.1", False, token)
    assert not token or token not in str(caught.value)


def test_the_ways_to_show_a_token():
    password = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    assert authorised(f"Api-Key {TOKEN}", TOKEN)
    assert authorised(f"bearer  {TOKEN}", TOKEN)
    assert authorised(f"Basic {password}", TOKEN)


@pytest.mark.parametrize(
    "header", [None, "", TOKEN, "Api-Key", f"Digest {TOKEN}", f"Basic {TOKEN}", f"Api-Key {TOKEN} x"]
)
def test_anything_else_is_no_token(header):
    assert not authorised(header, TOKEN)


@given(st.text(), st.sampled_from(["Api-Key", "Bearer", "Basic", "basic"]), st.text(string.printable))
def test_junk_is_no_token(scheme, known, rest):
    assert not authorised(f"{scheme} {rest}", TOKEN)
    assert not authorised(f"{known} {rest}", TOKEN)


@pytest.mark.parametrize("header", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_names_of_this_machine(header):
    assert names_this_machine(header)


@pytest.mark.parametrize(
    "header", [None, "", "elsewhere.example", "localhost.example:80", "[::1", "192.168.0.1"]
)
def test_names_of_others(header):
    assert not names_this_machine(header)


def test_tls_needs_a_certificate_and_its_key(tmp_path):
    assert tls_context(None, None) is None
    with pytest.raises(AccessError, match="both"):
        tls_context("certificate.pem", None)
    with pytest.raises(AccessError, match="no such file"):
        tls_context(str(tmp_path / "none.pem"), str(tmp_path / "none.pem"))
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    with pytest.raises(AccessError, match=r"tls_cert=.*empty\.pem"):
        tls_context(str(empty), str(empty))


def test_a_key_with_a_password_does_not_stop_to_ask(tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-passout",
        "pass:abcd",
        "-subj",
        "/CN=localhost",
    ]
    try:
        subprocess.run(
            [*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    with pytest.raises(AccessError, match="tls_key"):
        tls_context(str(certificate), str(key))
