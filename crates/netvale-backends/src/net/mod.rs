//! What several modules ask of sockets and interfaces.

#[cfg(any(feature = "packet", feature = "vxlan"))]
pub(crate) mod mmsg;
pub(crate) mod sys;

/// Longest interface name, bytes.
#[cfg(any(feature = "tap", feature = "packet", feature = "netlink"))]
pub(crate) const NAME_MAX: usize = 15;

/// Why `name` cannot be an interface's; `None` if it can.
#[cfg(any(feature = "tap", feature = "packet", feature = "netlink"))]
pub(crate) fn bad_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > NAME_MAX {
        Some("it is longer than 15 bytes")
    } else if name == "." || name == ".." {
        Some("the kernel reserves it")
    } else if name
        .bytes()
        .any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace() || b.is_ascii_control())
    {
        Some("it has a slash, a colon, white space or a control character")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #[cfg(any(feature = "tap", feature = "packet", feature = "netlink"))]
    #[test]
    fn names_are_those_of_the_kernel() {
        for good in ["eth0", "a", "fifteen-letters", "x.100", "tap%d", "ä"] {
            assert_eq!(super::bad_name(good), None, "{good}");
        }
        for bad in [
            "",
            "sixteen-letters!",
            ".",
            "..",
            "a/b",
            "a:1",
            "a b",
            "a\0",
        ] {
            assert!(super::bad_name(bad).is_some(), "{bad:?}");
        }
    }
}
