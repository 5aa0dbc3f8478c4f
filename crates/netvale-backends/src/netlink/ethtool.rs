//! What drivers tell and let be set: ring sizes, channels, offloads.
//!
//! All functions act in the network namespace of the calling thread.

use std::io;

use super::NetlinkError;
use crate::OsError;
use crate::net::bad_name;
use crate::net::sys::{Control, Ethtool, Value};

/// Sizes of the hardware's rings, slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rings {
    /// Receive ring.
    pub rx: u32,
    /// Longest possible receive ring.
    pub rx_max: u32,
    /// Transmit ring.
    pub tx: u32,
    /// Longest possible transmit ring.
    pub tx_max: u32,
}

/// Numbers of queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Channels {
    /// Receive queues in use: own ones and combined ones.
    pub rx: u32,
    /// Transmit queues in use: own ones and combined ones.
    pub tx: u32,
    /// Most combined queues.
    pub combined_max: u32,
}

/// An offload that can be switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// Checking of checksums of received packets.
    RxChecksum,
    /// Computing of checksums of sent packets.
    TxChecksum,
    /// Sending from scattered pieces.
    ScatterGather,
    /// Segmentation of TCP by the interface.
    Tso,
    /// Segmentation of any protocol by the kernel, as late as possible.
    Gso,
    /// Joining of received segments by the kernel.
    Gro,
    /// Joining of received segments by the interface.
    Lro,
    /// Taking VLAN tags out of received frames.
    RxVlan,
    /// Putting VLAN tags into sent frames.
    TxVlan,
}

impl Offload {
    /// Commands to get and set, and the bit if they are about several.
    fn commands(self) -> (Value, Value, u32) {
        match self {
            Self::RxChecksum => (Value::GetRxCsum, Value::SetRxCsum, 0),
            Self::TxChecksum => (Value::GetTxCsum, Value::SetTxCsum, 0),
            Self::ScatterGather => (Value::GetSg, Value::SetSg, 0),
            Self::Tso => (Value::GetTso, Value::SetTso, 0),
            Self::Gso => (Value::GetGso, Value::SetGso, 0),
            Self::Gro => (Value::GetGro, Value::SetGro, 0),
            Self::Lro => (Value::GetFlags, Value::SetFlags, 1 << 15),
            Self::RxVlan => (Value::GetFlags, Value::SetFlags, 1 << 8),
            Self::TxVlan => (Value::GetFlags, Value::SetFlags, 1 << 7),
        }
    }
}

/// Ring sizes; `None` if the driver has none, as virtual ones.
///
/// # Errors
///
/// [`NetlinkError::Missing`] or [`NetlinkError::Os`].
pub fn rings(name: &str) -> Result<Option<Rings>, NetlinkError> {
    // struct ethtool_ringparam: command, then four maxima, then four sizes.
    let answer = ask(name, "read the ring sizes of interface", Ethtool::rings())?;
    Ok(answer.map(|[_, rx_max, _, _, tx_max, rx, _, _, tx]| Rings {
        rx,
        rx_max,
        tx,
        tx_max,
    }))
}

/// Numbers of queues; `None` if the driver has only one of each.
///
/// # Errors
///
/// As for [`rings`].
pub fn channels(name: &str) -> Result<Option<Channels>, NetlinkError> {
    // struct ethtool_channels: command, then four maxima (receive, transmit,
    // other, combined), then four counts.
    let answer = ask(name, "read the queues of interface", Ethtool::channels())?;
    Ok(
        answer.map(|[_, _, _, _, combined_max, rx, tx, _, both]| Channels {
            rx: rx.saturating_add(both),
            tx: tx.saturating_add(both),
            combined_max,
        }),
    )
}

/// What the interface's driver calls itself; `None` if it does not say.
///
/// # Errors
///
/// As for [`rings`].
pub fn driver(name: &str) -> Result<Option<String>, NetlinkError> {
    // struct ethtool_drvinfo: command, then the name in 32 bytes, and more.
    let answer = ask(name, "read the driver of interface", Ethtool::driver())?;
    Ok(answer.map(|words| {
        let bytes = words.into_iter().skip(1).take(8).flat_map(u32::to_ne_bytes);
        let name: Vec<u8> = bytes.take_while(|&b| b != 0).collect();
        String::from_utf8_lossy(&name).into_owned()
    }))
}

/// Whether an offload is on; `None` if the driver does not know it.
///
/// # Errors
///
/// As for [`rings`].
pub fn offload(name: &str, offload: Offload) -> Result<Option<bool>, NetlinkError> {
    let (get, _, bit) = offload.commands();
    let answer = ask(
        name,
        "read the offloads of interface",
        Ethtool::value(get, 0),
    )?;
    Ok(answer.map(|[_, value]| match bit {
        0 => value != 0,
        bit => value & bit != 0,
    }))
}

/// Switches an offload; whether the driver has it so afterwards.
///
/// # Errors
///
/// [`NetlinkError::Missing`] or [`NetlinkError::Os`], which needs
/// `CAP_NET_ADMIN`.
pub fn set_offload(name: &str, offload: Offload, on: bool) -> Result<bool, NetlinkError> {
    const WHAT: &str = "set the offloads of interface";
    let (get, set, bit) = offload.commands();
    let value = match bit {
        0 => u32::from(on),
        bit => match ask(name, WHAT, Ethtool::value(get, 0))? {
            Some([_, old]) if on => old | bit,
            Some([_, old]) => old & !bit,
            None => return Ok(!on),
        },
    };
    if ask(name, WHAT, Ethtool::value(set, value))?.is_none() {
        return Ok(!on);
    }
    Ok(self::offload(name, offload)? == Some(on))
}

fn ask<const N: usize>(
    name: &str,
    what: &'static str,
    mut request: Ethtool<N>,
) -> Result<Option<[u32; N]>, NetlinkError> {
    if let Some(why) = bad_name(name) {
        let name = name.to_owned();
        return Err(NetlinkError::Name { name, why });
    }
    let os = |e: io::Error| OsError::new(what, name, e);
    let control = Control::new().map_err(os)?;
    match control.ethtool(name, &mut request) {
        Ok(()) => Ok(Some(request.words())),
        Err(e) => match e.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Ok(None),
            Some(libc::ENODEV) => Err(NetlinkError::Missing {
                name: name.to_owned(),
            }),
            _ => Err(os(e).into()),
        },
    }
}
