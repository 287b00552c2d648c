"""Addresses of entity stores."""

from pathlib import Path

import pytest

from service.state.address import Address, parse_address
from service.state.errors import AddressError


def test_an_lmdb_address_names_a_directory():
    assert parse_address("lmdb:///var/lib/a%20b") == Address("lmdb", directory=Path("/var/lib/a b"))


def test_a_redis_address_has_host_port_database_and_options():
    address = parse_address("redis://h:7000/2?prefix=shop")
    assert (address.host, address.port, address.database) == ("h", 7000, 2)
    assert (address.prefix, address.cluster) == ("shop", False)
    assert parse_address("rediss://[::1]?cluster=true").cluster
    assert str(parse_address("rediss://[::1]?cluster=true")) == "rediss://[::1]:6379/0?cluster=true"


@pytest.mark.parametrize("text", ["redis://me:s%40cret@h/0", "rediss://:s%40cret@h"])
def test_no_text_of_an_address_has_its_password(text):
    address = parse_address(text)
    assert address.password == "s@cret"
    assert "cret" not in f"{address} {address!r} {[address]}"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must be lmdb"),
        ("off", "must be lmdb"),
        ("/var/lib", "a text without a scheme"),
        ("sqlite:///a", "got sqlite://"),
        ("lmdb://relative", "must name a directory from the root"),
        ("lmdb:///", "must name a directory from the root"),
        ("lmdb:///a?b=1", "no query"),
        ("redis://:s3cret@h:port/0", "not an address"),
        ("redis://:s3cret@h:99999/0", "not an address"),
        ("redis://:s3cret@h/name", "is a number, as in /0"),
        ("redis://:s3cret@h/0?db=1", "options of an address are cluster and prefix"),
        ("redis://:s3cret@h/0?cluster=1", "must be true or false, got 1"),
        ("redis://:s3cret@h/3?cluster=true", "database 0 alone, got 3"),
        ("redis://:s3cret@h/0?prefix={a}", "prefix: must be 1 to 64"),
        ("redis://:s3cret@h/0?prefix=", "prefix: must be 1 to 64"),
        ("redis://:12/s3cret@h:6379/0", "password as %2F"),
        ("redis://:#s3cret@h/0", "port|address|password"),
        ("redis://:s3cret@h/0?x", "options of an address are cluster and prefix"),
    ],
)
def test_a_broken_address_is_refused_without_its_password(text, rule):
    with pytest.raises(AddressError, match=rule) as refusal:
        parse_address(text)
    assert "s3cret" not in str(refusal.value)
