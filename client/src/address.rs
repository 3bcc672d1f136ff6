//! What a server's address may be: `HOST:PORT`, as far as that can be told without asking anybody.
//!
//! What can never be connected to is refused when the client is made. A name that nobody knows is no mistake of that
//! kind: it may be known later, so calls try it until their deadlines.

use std::net::SocketAddrV6;
use std::num::NonZeroU16;

use crate::Error;

/// The address, without the spaces around it. [`Error::InvalidServer`] if no server can be reached by it.
pub(crate) fn checked(address: &str) -> Result<&str, Error> {
    let address = address.trim();
    match address.rsplit_once(':') {
        Some((host, port)) if is_host(host, address) && port.parse::<NonZeroU16>().is_ok() => Ok(address),
        _ => Err(Error::InvalidServer(address.into())),
    }
}

/// An IPv6 address stands in brackets, or its last group would be taken for the port.
fn is_host(host: &str, address: &str) -> bool {
    match host.starts_with('[') {
        true => address.parse::<SocketAddrV6>().is_ok(),
        false => !host.is_empty() && !host.contains(is_never_in_names),
    }
}

/// Of a URL, a list, or nothing that was meant.
fn is_never_in_names(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "/:,;@[]\"'".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_with_a_port_are_servers() {
        for address in
            ["127.0.0.1:7401", "localhost:1", "[::1]:7401", "[fe80::1%2]:80", "node_1.db.example.:65535"]
        {
            assert_eq!(checked(address), Ok(address));
        }
        assert_eq!(checked(" a:1\n"), Ok("a:1"), "spaces around it are of the list that it is from");
        assert_eq!(checked("gr\u{fc}n.example:7401"), Ok("gr\u{fc}n.example:7401"), "the resolver decides");
    }

    #[test]
    fn what_can_never_be_reached_is_no_server() {
        let wrong = [
            "",
            " ",
            "localhost",
            "127.0.0.1",
            ":7401",
            "a:",
            "a:0",
            "a:65536",
            "a:-1",
            "a:http",
            "a b:1",
            "a: 1",
            "a :1",
            "::1:7401",
            "::1",
            "[::1]",
            "[]:1",
            "[a]:1",
            "[127.0.0.1]:1",
            "http://a:1",
            "u@a:1",
            "a:1,b:2",
            "a:1/",
            "a\0:1",
        ];
        for address in wrong {
            assert_eq!(checked(address), Err(Error::InvalidServer(address.trim().into())));
        }
    }
}
