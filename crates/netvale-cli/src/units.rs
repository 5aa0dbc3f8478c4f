//! Numbers for people: scaled units, and how pkt-gen writes them.

/// Bytes that Ethernet adds to a frame on a wire: preamble 8, checksum 4,
/// gap 12.
pub(crate) const FRAMING_BYTES: u64 = 24;

/// `1234567.0` as `1.235 M`: three decimals, a space, and a prefix if any.
pub(crate) fn scaled(value: f64) -> String {
    const PREFIXES: [&str; 5] = ["", "K", "M", "G", "T"];
    let mut value = value;
    let mut prefix = 0;
    while value.abs() >= 1000.0 && prefix + 1 < PREFIXES.len() {
        value /= 1000.0;
        prefix += 1;
    }
    format!("{value:.3} {}", PREFIXES[prefix])
}

/// [`scaled`], or the plain number when `scale` is false (pkt-gen -N).
pub(crate) fn rate(value: f64, scale: bool) -> String {
    if scale {
        scaled(value)
    } else {
        format!("{value:.3} ")
    }
}

/// Frames per second and bits per second of frames of `len` bytes, in the
/// units the project's tables use.
pub(crate) fn mpps_gbps(pps: f64, len: f64) -> (f64, f64) {
    (pps / 1e6, pps * len * 8.0 / 1e9)
}

/// A count as a float, for rates.
#[expect(
    clippy::cast_precision_loss,
    reason = "a rate is good to three digits, f64 holds fifteen"
)]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// `count` per `secs`, 0 if no time has passed.
pub(crate) fn per_second(count: u64, secs: f64) -> f64 {
    if secs > 0.0 { float(count) / secs } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_by_thousands() {
        for (value, expected) in [
            (0.0, "0.000 "),
            (999.0, "999.000 "),
            (1000.0, "1.000 K"),
            (14_880_952.0, "14.881 M"),
            (1e9, "1.000 G"),
            (1e15, "1000.000 T"),
        ] {
            assert_eq!(scaled(value), expected);
        }
        assert_eq!(rate(14_880_952.0, false), "14880952.000 ");
    }

    #[test]
    fn no_time_is_no_rate() {
        assert!(per_second(5, 0.0).abs() < f64::EPSILON);
    }
}
