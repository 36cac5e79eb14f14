import pytest

from workers.address import Address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::1]:0", "::1", 0),
        ("[fe80::1%eth0]:8410", "fe80::1%eth0", 8410),
        ("pod-0.example:8410", "pod-0.example", 8410),
        (":8410", "", 8410),
    ],
)
def test_address_is_read_and_written_as_it_was(text, host, port):
    address = Address.parse(text)
    assert address == Address(host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1", "[::1]", "host:", "host:x", "host:65536", "h:-1"]
)
def test_address_without_a_port_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"\[::1\]:8410"):
        Address.parse(text)


def test_address_of_ipv6_without_brackets_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"write \[::1\]:8410"):
        Address.parse("::1:8410")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("pod-0", "pod-0:7"),
        ("10.0.0.1", "10.0.0.1:7"),
        ("fd00::5", "[fd00::5]:7"),
        ("[fd00::5]", "[fd00::5]:7"),
        ("[fd00::5]:8410", "[fd00::5]:8410"),
        ("pod-0:8410", "pod-0:8410"),
    ],
)
def test_host_alone_takes_the_default_port(text, written):
    assert str(Address.parse(text, default_port=7)) == written


@pytest.mark.parametrize(
    ("text", "is_loopback", "is_unspecified"),
    [
        ("127.0.0.1:0", True, False),
        ("[::1]:0", True, False),
        ("localhost:0", True, False),
        ("0.0.0.0:0", False, True),
        ("[::]:0", False, True),
        (":0", False, True),
        ("10.0.0.1:0", False, False),
        ("loopback.example:0", False, False),
    ],
)
def test_address_says_who_can_reach_it(text, is_loopback, is_unspecified):
    address = Address.parse(text)
    assert (address.is_loopback, address.is_unspecified) == (is_loopback, is_unspecified)
