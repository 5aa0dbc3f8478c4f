//! Options after the modifiers: `@conf:...`, `@share=...`, `@extmem=...`, `@offset=...`.

use super::error::NameError;
use super::parse::number;
use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;

/// Options of a port specification.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortOpts {
    /// `@conf:`: wishes about rings and slots.
    pub conf: Conf,
    /// `@share=PORT`: use the region of that port.
    pub share: Option<String>,
    /// `@extmem=FILE`: use that file as the region.
    pub extmem: Option<ExtMem>,
    /// `@offset=N`: packets begin at an offset in their buffers.
    pub offset: Option<Offset>,
}

/// `@conf:`: rings and slots wanted; `None` leaves the choice to the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Conf {
    /// Transmit rings.
    pub tx_rings: Option<u16>,
    /// Receive rings.
    pub rx_rings: Option<u16>,
    /// Host transmit rings.
    pub host_tx_rings: Option<u16>,
    /// Host receive rings.
    pub host_rx_rings: Option<u16>,
    /// Slots in each transmit ring.
    pub tx_slots: Option<u32>,
    /// Slots in each receive ring.
    pub rx_slots: Option<u32>,
}

/// `@extmem:`: a file to use as the region; `None` leaves the choice to the server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ExtMem {
    /// The file.
    pub file: String,
    /// Interface descriptors.
    pub if_num: Option<u32>,
    /// Size of each, bytes.
    pub if_size: Option<u32>,
    /// Rings.
    pub ring_num: Option<u32>,
    /// Size of each, bytes.
    pub ring_size: Option<u32>,
    /// Buffers.
    pub buf_num: Option<u32>,
    /// Size of each, bytes.
    pub buf_size: Option<u32>,
}

/// `@offset:`: where packets begin in their buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Offset {
    /// Initial and largest offset, bytes.
    pub initial: u32,
    /// Bits of a slot's pointer that hold the offset (0..=64); `None` for all.
    pub bits: Option<u8>,
}

impl fmt::Display for PortOpts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.conf)?;
        if let Some(share) = &self.share {
            write!(f, "@share={share}")?;
        }
        if let Some(mem) = &self.extmem {
            let ExtMem { file, .. } = mem;
            // The short form takes commas, the long one takes more keys.
            if mem.numbers().iter().all(|(_, n)| n.is_none()) {
                write!(f, "@extmem={file}")?;
            } else {
                write!(f, "@extmem:file={file}")?;
                write_keys(f, ",", &mem.numbers())?;
            }
        }
        if let Some(Offset { initial, bits }) = self.offset {
            write!(f, "@offset:initial={initial}")?;
            write_keys(f, ",", &[("bits", bits.map(u32::from))])?;
        }
        Ok(())
    }
}

impl Conf {
    fn numbers(&self) -> [(&'static str, Option<u32>); 6] {
        [
            ("tx-rings", self.tx_rings.map(u32::from)),
            ("rx-rings", self.rx_rings.map(u32::from)),
            ("host-tx-rings", self.host_tx_rings.map(u32::from)),
            ("host-rx-rings", self.host_rx_rings.map(u32::from)),
            ("tx-slots", self.tx_slots),
            ("rx-slots", self.rx_slots),
        ]
    }
}

impl fmt::Display for Conf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_keys(f, "@conf:", &self.numbers())
    }
}

impl ExtMem {
    fn numbers(&self) -> [(&'static str, Option<u32>); 6] {
        [
            ("if-num", self.if_num),
            ("if-size", self.if_size),
            ("ring-num", self.ring_num),
            ("ring-size", self.ring_size),
            ("buf-num", self.buf_num),
            ("buf-size", self.buf_size),
        ]
    }
}

/// Writes `first` and the keys that have a value, separated by commas.
fn write_keys(
    f: &mut fmt::Formatter<'_>,
    first: &str,
    keys: &[(&str, Option<u32>)],
) -> fmt::Result {
    let mut separator = first;
    for (key, value) in keys {
        if let Some(value) = value {
            write!(f, "{separator}{key}={value}")?;
            separator = ",";
        }
    }
    Ok(())
}

const CONF_KEYS: &str = "rings, host-rings, slots, tx-rings, rx-rings, host-tx-rings, \
                         host-rx-rings, tx-slots and rx-slots";
const EXTMEM_KEYS: &str = "file, if-num, if-size, ring-num, ring-size, buf-num and buf-size";

/// Parses the options in `text` from `at` on: nothing, or `@` and an option, repeated.
pub(super) fn parse(opts: &mut PortOpts, text: &str, at: usize) -> Result<(), NameError> {
    let mut at = at;
    let list = text.get(at..).unwrap_or_default();
    for option in list.split('@').skip(1) {
        at += 1;
        option_at(opts, option, at)?;
        at += option.len();
    }
    Ok(())
}

fn option_at(opts: &mut PortOpts, option: &str, at: usize) -> Result<(), NameError> {
    if option.is_empty() {
        let what = "option or region number";
        return Err(NameError::EmptyPart { what, at });
    }
    let end = option.find([':', '=']).unwrap_or(option.len());
    let (name, body) = option.split_at(end);
    let body = Body {
        keyed: body.starts_with(':'),
        text: body.get(1..).unwrap_or_default(),
        at: at + end + 1,
        option_at: at,
    };
    match name {
        "conf" => conf(&mut opts.conf, body),
        "share" => share(&mut opts.share, body),
        "extmem" => extmem(&mut opts.extmem, body),
        "offset" => offset(&mut opts.offset, body),
        _ => Err(NameError::UnknownOption {
            name: name.chars().take(64).collect(),
            at,
        }),
    }
}

/// What follows an option's name.
#[derive(Clone, Copy)]
struct Body<'a> {
    /// After `:`, so `key=value` pairs; else one value after `=`, or nothing.
    keyed: bool,
    text: &'a str,
    at: usize,
    option_at: usize,
}

/// One `key=value` pair.
struct Pair<'a> {
    key: String,
    key_at: usize,
    value: &'a str,
    value_at: usize,
}

impl<'a> Body<'a> {
    fn missing(self, option: &'static str, needs: &'static str) -> NameError {
        let at = self.option_at;
        NameError::MissingValue { option, at, needs }
    }

    /// Calls `each` for every pair; keys come with `-` for `_`.
    fn pairs(
        self,
        option: &'static str,
        mut each: impl FnMut(Pair<'a>) -> Result<(), NameError>,
    ) -> Result<(), NameError> {
        let mut at = self.at;
        for pair in self.text.split(',') {
            let Some((key, value)) = pair.split_once('=').filter(|(_, v)| !v.is_empty()) else {
                let needs = "a value for every key: key=value,key=value";
                return Err(NameError::MissingValue { option, at, needs });
            };
            each(Pair {
                key: key.replace('_', "-"),
                key_at: at,
                value,
                value_at: at + key.len() + 1,
            })?;
            at += pair.len() + 1;
        }
        Ok(())
    }
}

impl Pair<'_> {
    fn unknown(self, option: &'static str, keys: &'static str) -> NameError {
        NameError::UnknownKey {
            option,
            key: self.key.chars().take(64).collect(),
            at: self.key_at,
            keys,
        }
    }

    fn u16(&self) -> Result<u16, NameError> {
        let max = u64::from(u16::MAX);
        let n = number(self.value, self.value_at, "value", 0, max)?;
        Ok(u16::try_from(n).unwrap_or(u16::MAX))
    }

    fn u32(&self) -> Result<u32, NameError> {
        let max = u64::from(u32::MAX);
        let n = number(self.value, self.value_at, "value", 0, max)?;
        Ok(u32::try_from(n).unwrap_or(u32::MAX))
    }
}

/// Sets `field` unless it has been set before.
fn once<T>(
    field: &mut Option<T>,
    value: T,
    what: &'static str,
    at: usize,
) -> Result<(), NameError> {
    match field.replace(value) {
        Some(_) => Err(NameError::Duplicate { what, at }),
        None => Ok(()),
    }
}

/// A later `@conf:` overrides an earlier one; within one, a key for one
/// direction overrides the key for both wherever they stand.
fn conf(conf: &mut Conf, body: Body<'_>) -> Result<(), NameError> {
    if !body.keyed {
        return Err(body.missing("conf", "a ':' and keys, for example conf:slots=512"));
    }
    if body.text.is_empty() {
        return Ok(());
    }
    let (mut rings, mut host_rings, mut slots) = (None, None, None);
    let mut own = Conf::default();
    body.pairs("conf", |pair| {
        let at = pair.key_at;
        match pair.key.as_str() {
            "rings" => once(&mut rings, pair.u16()?, "key rings", at),
            "host-rings" => once(&mut host_rings, pair.u16()?, "key host-rings", at),
            "slots" => once(&mut slots, pair.u32()?, "key slots", at),
            "tx-rings" => once(&mut own.tx_rings, pair.u16()?, "key tx-rings", at),
            "rx-rings" => once(&mut own.rx_rings, pair.u16()?, "key rx-rings", at),
            "host-tx-rings" => once(&mut own.host_tx_rings, pair.u16()?, "key host-tx-rings", at),
            "host-rx-rings" => once(&mut own.host_rx_rings, pair.u16()?, "key host-rx-rings", at),
            "tx-slots" => once(&mut own.tx_slots, pair.u32()?, "key tx-slots", at),
            "rx-slots" => once(&mut own.rx_slots, pair.u32()?, "key rx-slots", at),
            _ => Err(pair.unknown("conf", CONF_KEYS)),
        }
    })?;
    *conf = Conf {
        tx_rings: own.tx_rings.or(rings).or(conf.tx_rings),
        rx_rings: own.rx_rings.or(rings).or(conf.rx_rings),
        host_tx_rings: own.host_tx_rings.or(host_rings).or(conf.host_tx_rings),
        host_rx_rings: own.host_rx_rings.or(host_rings).or(conf.host_rx_rings),
        tx_slots: own.tx_slots.or(slots).or(conf.tx_slots),
        rx_slots: own.rx_slots.or(slots).or(conf.rx_slots),
    };
    Ok(())
}

fn share(share: &mut Option<String>, body: Body<'_>) -> Result<(), NameError> {
    let port = match body.keyed {
        true => body.text.strip_prefix("port=").unwrap_or(body.text),
        false => body.text,
    };
    if port.is_empty() {
        return Err(body.missing("share", "a port: share=vale0:a"));
    }
    let at = body.at + body.text.len() - port.len();
    // Only the prefix is checked: the rest is for whoever looks the port up.
    if !port.starts_with("netmap:") && !port.starts_with("vale") {
        return Err(NameError::BadShare { at });
    }
    once(share, port.to_owned(), "option share", body.option_at)
}

fn extmem(extmem: &mut Option<ExtMem>, body: Body<'_>) -> Result<(), NameError> {
    let mut file = None;
    let mut mem = ExtMem::default();
    if body.keyed {
        body.pairs("extmem", |pair| {
            let at = pair.key_at;
            match pair.key.as_str() {
                "file" => once(&mut file, pair.value.to_owned(), "key file", at),
                "if-num" => once(&mut mem.if_num, pair.u32()?, "key if-num", at),
                "if-size" => once(&mut mem.if_size, pair.u32()?, "key if-size", at),
                "ring-num" => once(&mut mem.ring_num, pair.u32()?, "key ring-num", at),
                "ring-size" => once(&mut mem.ring_size, pair.u32()?, "key ring-size", at),
                "buf-num" => once(&mut mem.buf_num, pair.u32()?, "key buf-num", at),
                "buf-size" => once(&mut mem.buf_size, pair.u32()?, "key buf-size", at),
                _ => Err(pair.unknown("extmem", EXTMEM_KEYS)),
            }
        })?;
    } else if !body.text.is_empty() {
        file = Some(body.text.to_owned());
    }
    mem.file = file.ok_or_else(|| body.missing("extmem", "a file: extmem=/dev/hugepages/x"))?;
    once(extmem, mem, "option extmem", body.option_at)
}

fn offset(offset: &mut Option<Offset>, body: Body<'_>) -> Result<(), NameError> {
    let mut initial = None;
    let mut bits = None;
    if body.keyed {
        body.pairs("offset", |pair| {
            let at = pair.key_at;
            match pair.key.as_str() {
                "initial" => once(&mut initial, pair.u32()?, "key initial", at),
                "bits" => {
                    let n = number(pair.value, pair.value_at, "bits", 0, 64)?;
                    once(&mut bits, u8::try_from(n).unwrap_or(64), "key bits", at)
                }
                _ => Err(pair.unknown("offset", "initial and bits")),
            }
        })?;
    } else if !body.text.is_empty() {
        let max = u64::from(u32::MAX);
        let n = number(body.text, body.at, "offset", 0, max)?;
        initial = Some(u32::try_from(n).unwrap_or(u32::MAX));
    }
    let initial = initial.ok_or_else(|| body.missing("offset", "a number: offset=128"))?;
    once(
        offset,
        Offset { initial, bits },
        "option offset",
        body.option_at,
    )
}
