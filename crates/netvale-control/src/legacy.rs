//! The requests of API 11 and earlier, translated into those of today.
//!
//! They have no options and no body of their own. What a request does not
//! answer comes back exactly as given, `nr_ringid` and `nr_flags` always.

use alloc::format;
use alloc::vec::Vec;

use netvale_wire::abi::legacy::{
    BDG_HOST, REG_MASK, RINGID_DO_RX_POLL, RINGID_HW, RINGID_NO_TX_POLL, RINGID_SW, cmd,
};
use netvale_wire::abi::{
    NETMAP_MIN_API, NETMAP_REQ_IFNAMSIZ, NETMAP_RING_MASK, NmIfreq, NmReq, NmReqPortHdr,
    NmReqPortInfoGet, NmReqRegister, NmReqValeAttach, NmReqValeDetach, NmReqValeList,
    NmReqValeNewif, NmReqValePolling, mode, polling, regflags,
};
use zerocopy::FromZeros;

use crate::options::Options;
use crate::{Errno, Host, Outcome, UserMem, ctrl, register, text};

/// `NIOCREGIF`: a registration, or what `nr_cmd` says.
pub(crate) fn regif(host: &mut dyn Host, mem: &dyn UserMem, req: &mut NmReq) -> Outcome {
    if let Err(e) = accept(req) {
        return e.into();
    }
    if req.nr_cmd == 0 {
        let result = plain(host, mem, req);
        return Outcome {
            bound: result.is_ok(),
            result,
        };
    }
    command(host, req).into()
}

/// `NIOCGINFO`: a port's geometry, or an enumeration; no other command.
pub(crate) fn ginfo(host: &mut dyn Host, _mem: &dyn UserMem, req: &mut NmReq) -> Outcome {
    let done = accept(req).and_then(|()| {
        if req.nr_cmd == cmd::BDG_LIST {
            list(host, req)
        } else {
            info(host, req)
        }
    });
    done.into()
}

/// `NIOCCONFIG`. The data come back even after a failure, as all of the
/// structure does.
pub(crate) fn config(host: &mut dyn Host, _mem: &dyn UserMem, req: &mut NmIfreq) -> Outcome {
    let given = req.nifr_name;
    let (_, chars) = given.split_last().unwrap_or((&0, &[]));
    let name = chars.split(|&b| b == 0).next().unwrap_or_default();
    let done = match text(name) {
        Ok(name) if !name.is_empty() => host.config(name, &mut req.data),
        _ => Err(Errno::EINVAL),
    };
    done.into()
}

/// Any newer version will do, an older one will not.
fn accept(req: &mut NmReq) -> Result<(), Errno> {
    if req.nr_version < u32::from(NETMAP_MIN_API) {
        return Err(Errno::EINVAL);
    }
    if let Some(last) = req.nr_name.last_mut() {
        *last = 0;
    }
    Ok(())
}

fn plain(host: &mut dyn Host, mem: &dyn UserMem, req: &mut NmReq) -> Result<(), Errno> {
    let (name, mut body) = to_register(req)?;
    register::register(host, mem, &name, &mut body, &mut Options::default())?;
    req.nr_offset = low(body.nr_offset);
    req.nr_memsize = low(body.nr_memsize);
    req.nr_tx_slots = body.nr_tx_slots;
    req.nr_rx_slots = body.nr_rx_slots;
    req.nr_tx_rings = body.nr_tx_rings;
    req.nr_rx_rings = body.nr_rx_rings;
    req.nr_arg2 = body.nr_mem_id;
    req.nr_arg3 = body.nr_extra_bufs;
    Ok(())
}

/// The name and the request that an old registration means.
fn to_register(req: &NmReq) -> Result<(Vec<u8>, NmReqRegister), Errno> {
    let mut body = NmReqRegister::new_zeroed();
    body.nr_tx_slots = req.nr_tx_slots;
    body.nr_rx_slots = req.nr_rx_slots;
    body.nr_tx_rings = req.nr_tx_rings;
    body.nr_rx_rings = req.nr_rx_rings;
    body.nr_mem_id = req.nr_arg2;
    body.nr_extra_bufs = req.nr_arg3;
    body.nr_ringid = req.nr_ringid & NETMAP_RING_MASK;
    body.nr_flags = u64::from(req.nr_flags & !REG_MASK);
    if req.nr_ringid & RINGID_NO_TX_POLL != 0 {
        body.nr_flags |= regflags::NO_TX_POLL;
    }
    if req.nr_ringid & RINGID_DO_RX_POLL != 0 {
        body.nr_flags |= regflags::DO_RX_POLL;
    }
    body.nr_mode = match req.nr_flags & REG_MASK {
        mode::DEFAULT if req.nr_ringid & RINGID_SW != 0 => mode::SW,
        mode::DEFAULT if req.nr_ringid & RINGID_HW != 0 => mode::ONE_NIC,
        mode::DEFAULT => mode::ALL_NIC,
        mode => mode,
    };

    let mut name = req.name().to_vec();
    let brace = match body.nr_mode {
        mode::PIPE_MASTER => '{',
        mode::PIPE_SLAVE => '}',
        _ => return Ok((name, body)),
    };
    name.extend_from_slice(format!("{brace}{}", body.nr_ringid).as_bytes());
    if name.len() >= NETMAP_REQ_IFNAMSIZ {
        return Err(Errno::ENOMEM);
    }
    body.nr_mode = mode::ALL_NIC;
    body.nr_ringid = 0;
    Ok((name, body))
}

/// What `NIOCREGIF` does when `nr_cmd` is not 0.
fn command(host: &mut dyn Host, req: &mut NmReq) -> Result<(), Errno> {
    let given = *req;
    let name = given.name();
    match req.nr_cmd {
        cmd::BDG_ATTACH => {
            let mut body = NmReqValeAttach::new_zeroed();
            let (name, reg) = to_register(&given)?;
            body.reg = reg;
            body.reg.nr_mode = if given.nr_arg1 & BDG_HOST != 0 {
                mode::NIC_SW
            } else {
                mode::ALL_NIC
            };
            ctrl::vale_attach(host, &name, &mut body)
        }
        cmd::BDG_DETACH => ctrl::vale_detach(host, name, &mut NmReqValeDetach::new_zeroed()),
        cmd::BDG_VNET_HDR => ctrl::port_hdr_set(host, name, &hdr_len(given.nr_arg1)),
        cmd::VNET_HDR_GET => {
            let mut body = hdr_len(given.nr_arg1);
            ctrl::port_hdr_get(host, name, &mut body)?;
            req.nr_arg1 = low16(body.nr_hdr_len);
            Ok(())
        }
        cmd::BDG_NEWIF => new_if(host, req),
        cmd::BDG_DELIF => ctrl::vale_delif(host, name),
        cmd::BDG_POLLING_ON => ctrl::polling_enable(host, name, &polling_of(&given)),
        cmd::BDG_POLLING_OFF => ctrl::polling_disable(host, name),
        cmd::PT_HOST_CREATE | cmd::PT_HOST_DELETE => Err(Errno::ENOMEM),
        _ => Err(Errno::EINVAL),
    }
}

fn info(host: &mut dyn Host, req: &mut NmReq) -> Result<(), Errno> {
    let mut body = NmReqPortInfoGet::new_zeroed();
    // Without a name, only two fields are answered.
    body.nr_tx_slots = req.nr_tx_slots;
    body.nr_rx_slots = req.nr_rx_slots;
    body.nr_tx_rings = req.nr_tx_rings;
    body.nr_rx_rings = req.nr_rx_rings;
    body.nr_mem_id = req.nr_arg2;
    ctrl::port_info_get(host, req.name(), &mut body)?;
    req.nr_memsize = low(body.nr_memsize);
    req.nr_tx_slots = body.nr_tx_slots;
    req.nr_rx_slots = body.nr_rx_slots;
    req.nr_tx_rings = body.nr_tx_rings;
    req.nr_rx_rings = body.nr_rx_rings;
    req.nr_arg2 = body.nr_mem_id;
    Ok(())
}

fn list(host: &mut dyn Host, req: &mut NmReq) -> Result<(), Errno> {
    let mut body = NmReqValeList::new_zeroed();
    body.nr_bridge_idx = req.nr_arg1;
    body.nr_port_idx = u32::from(req.nr_arg2);
    let given = *req;
    ctrl::vale_list(host, given.name(), &mut body, &mut req.nr_name)?;
    req.nr_arg1 = body.nr_bridge_idx;
    req.nr_arg2 = low16(body.nr_port_idx);
    Ok(())
}

fn new_if(host: &mut dyn Host, req: &mut NmReq) -> Result<(), Errno> {
    let mut body = NmReqValeNewif::new_zeroed();
    body.nr_tx_slots = req.nr_tx_slots;
    body.nr_rx_slots = req.nr_rx_slots;
    body.nr_tx_rings = req.nr_tx_rings;
    body.nr_rx_rings = req.nr_rx_rings;
    body.nr_mem_id = req.nr_arg2;
    ctrl::vale_newif(host, req.name(), &mut body)?;
    req.nr_tx_slots = body.nr_tx_slots;
    req.nr_rx_slots = body.nr_rx_slots;
    req.nr_tx_rings = body.nr_tx_rings;
    req.nr_rx_rings = body.nr_rx_rings;
    req.nr_arg2 = body.nr_mem_id;
    Ok(())
}

fn hdr_len(len: u16) -> NmReqPortHdr {
    NmReqPortHdr {
        nr_hdr_len: u32::from(len),
        pad: 0,
    }
}

/// One processor for all rings, or one for each, by the mode.
fn polling_of(req: &NmReq) -> NmReqValePolling {
    NmReqValePolling {
        nr_mode: match req.nr_flags & REG_MASK {
            mode::ALL_NIC => polling::SINGLE_CPU,
            mode::ONE_NIC => polling::MULTI_CPU,
            _ => 0,
        },
        nr_first_cpu_id: u32::from(req.nr_ringid & NETMAP_RING_MASK),
        nr_num_polling_cpus: u32::from(req.nr_arg1),
        pad: 0,
    }
}

/// The low half, which is all that an old request has room for.
#[expect(clippy::cast_possible_truncation, reason = "meant")]
const fn low(value: u64) -> u32 {
    value as u32
}

/// The same for a short field.
#[expect(clippy::cast_possible_truncation, reason = "meant")]
const fn low16(value: u32) -> u16 {
    value as u16
}
