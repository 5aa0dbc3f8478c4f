//! Requests about ports, switches and regions. Each function is one request
//! type: it checks, asks the host, and fills in the answer on success only.

use alloc::string::ToString;

use netvale_wire::abi::{
    IFNAMSIZ, NmReqPoolsInfo, NmReqPortHdr, NmReqPortInfoGet, NmReqValeAttach, NmReqValeDetach,
    NmReqValeList, NmReqValeNewif, NmReqValePolling, mode, polling,
};

use crate::{Attach, Errno, Host, ListEntry, NewIf, is_vale, text};

/// Lengths that a virtio-net header can have, bytes.
const HDR_LENS: [u32; 3] = [0, 10, 12];
/// Index of a port that a switch does not have.
const NO_PORT: u32 = 255;

/// `PORT_INFO_GET`: a port's geometry, or without a name the size of a region.
pub(crate) fn port_info_get(
    host: &mut dyn Host,
    name: &[u8],
    body: &mut NmReqPortInfoGet,
) -> Result<(), Errno> {
    let name = text(name)?;
    if name.is_empty() {
        let memory = host.memory(body.nr_mem_id)?;
        body.nr_memsize = memory.size;
        body.nr_mem_id = memory.id;
        return Ok(());
    }
    let port = host.port_info(name, body.nr_mem_id)?;
    body.nr_memsize = port.memsize;
    body.nr_mem_id = port.mem_id;
    [body.nr_tx_slots, body.nr_rx_slots] = port.slots;
    [
        body.nr_tx_rings,
        body.nr_rx_rings,
        body.nr_host_tx_rings,
        body.nr_host_rx_rings,
    ] = port.rings;
    Ok(())
}

/// `POOLS_INFO_GET`: how the region of a port is divided.
pub(crate) fn pools_info_get(
    host: &mut dyn Host,
    name: &[u8],
    body: &mut NmReqPoolsInfo,
) -> Result<(), Errno> {
    let name = text(name)?;
    if name.is_empty() {
        return Err(Errno::ENXIO);
    }
    let memory = host.port_memory(name, body.nr_mem_id)?;
    body.nr_memsize = memory.size;
    body.nr_mem_id = memory.id;
    body.nr_if_pool_offset = memory.ifs.offset;
    body.nr_if_pool_objtotal = memory.ifs.count;
    body.nr_if_pool_objsize = memory.ifs.size;
    body.nr_ring_pool_offset = memory.rings.offset;
    body.nr_ring_pool_objtotal = memory.rings.count;
    body.nr_ring_pool_objsize = memory.rings.size;
    body.nr_buf_pool_offset = memory.bufs.offset;
    body.nr_buf_pool_objtotal = memory.bufs.count;
    body.nr_buf_pool_objsize = memory.bufs.size;
    Ok(())
}

/// `VALE_ATTACH`. Only the index is an answer, the rest comes back as given.
pub(crate) fn vale_attach(
    host: &mut dyn Host,
    name: &[u8],
    body: &mut NmReqValeAttach,
) -> Result<(), Errno> {
    let name = text(name)?;
    let host_too = match body.reg.nr_mode {
        mode::ALL_NIC => false,
        mode::NIC_SW => true,
        _ => return Err(Errno::EINVAL),
    };
    if !is_vale(name) || body.reg.nr_ringid != 0 {
        return Err(Errno::EINVAL);
    }
    body.port_index = host.attach(&Attach {
        name: name.to_string(),
        host: host_too,
        mem_id: body.reg.nr_mem_id,
    })?;
    Ok(())
}

/// `VALE_DETACH`.
pub(crate) fn vale_detach(
    host: &mut dyn Host,
    name: &[u8],
    body: &mut NmReqValeDetach,
) -> Result<(), Errno> {
    let name = text(name)?;
    if !is_vale(name) {
        return Err(Errno::EINVAL);
    }
    body.port_index = host.detach(name)?;
    Ok(())
}

/// `VALE_LIST`: where the named port is, or, without a name, the first port from
/// the given place on; its name goes to `found`, cut if it is too long.
pub(crate) fn vale_list(
    host: &mut dyn Host,
    name: &[u8],
    body: &mut NmReqValeList,
    found: &mut [u8],
) -> Result<(), Errno> {
    let name = text(name)?;
    if !name.is_empty() {
        return locate(host, name, body);
    }
    let from = (body.nr_bridge_idx, body.nr_port_idx);
    let place = |entry: &ListEntry| (entry.bridge_idx, entry.port_idx);
    let entry = host
        .list()?
        .into_iter()
        .filter(|entry| place(entry) >= from)
        .min_by_key(place)
        .ok_or(Errno::ENOENT)?;
    (body.nr_bridge_idx, body.nr_port_idx) = place(&entry);
    found.fill(0);
    let room = found.len().saturating_sub(1);
    for (to, from) in found.iter_mut().take(room).zip(entry.name.bytes()) {
        *to = from;
    }
    Ok(())
}

/// `VALE_LIST` of a name. A switch without that port is no error.
fn locate(host: &mut dyn Host, name: &str, body: &mut NmReqValeList) -> Result<(), Errno> {
    if !is_vale(name) {
        return Err(Errno::EINVAL);
    }
    let (switch, _) = name.split_once(':').ok_or(Errno::ENOENT)?;
    let mut place = None;
    for entry in host.list()? {
        if entry.name == name {
            place = Some((entry.bridge_idx, entry.port_idx));
        } else if place.is_none() && entry.name.split_once(':').is_some_and(|(s, _)| s == switch) {
            place = Some((entry.bridge_idx, NO_PORT));
        }
    }
    (body.nr_bridge_idx, body.nr_port_idx) = place.ok_or(Errno::ENOENT)?;
    Ok(())
}

/// `PORT_HDR_SET`: for ports of switches only.
pub(crate) fn port_hdr_set(
    host: &mut dyn Host,
    name: &[u8],
    body: &NmReqPortHdr,
) -> Result<(), Errno> {
    let name = text(name)?;
    if !HDR_LENS.contains(&body.nr_hdr_len) {
        return Err(Errno::EINVAL);
    }
    if !is_vale(name) {
        return Err(Errno::ENXIO);
    }
    host.set_port_hdr(name, body.nr_hdr_len)
}

/// `PORT_HDR_GET`.
pub(crate) fn port_hdr_get(
    host: &mut dyn Host,
    name: &[u8],
    body: &mut NmReqPortHdr,
) -> Result<(), Errno> {
    let name = text(name)?;
    if name.is_empty() {
        return Err(Errno::ENXIO);
    }
    body.nr_hdr_len = host.port_hdr(name)?;
    Ok(())
}

/// `VALE_NEWIF`: the name becomes one of an interface.
pub(crate) fn vale_newif(
    host: &mut dyn Host,
    name: &[u8],
    body: &mut NmReqValeNewif,
) -> Result<(), Errno> {
    let name = text(name)?;
    if name.is_empty() || is_vale(name) || name.len() >= IFNAMSIZ {
        return Err(Errno::EINVAL);
    }
    let made = host.new_if(
        name,
        &NewIf {
            rings: [body.nr_tx_rings, body.nr_rx_rings],
            slots: [body.nr_tx_slots, body.nr_rx_slots],
            mem_id: body.nr_mem_id,
        },
    )?;
    [body.nr_tx_rings, body.nr_rx_rings] = made.rings;
    [body.nr_tx_slots, body.nr_rx_slots] = made.slots;
    body.nr_mem_id = made.mem_id;
    Ok(())
}

/// `VALE_DELIF`.
pub(crate) fn vale_delif(host: &mut dyn Host, name: &[u8]) -> Result<(), Errno> {
    let name = text(name)?;
    if name.is_empty() {
        return Err(Errno::ENXIO);
    }
    host.del_if(name)
}

/// `VALE_POLLING_ENABLE`. How many processors and rings there are, the host
/// knows.
pub(crate) fn polling_enable(
    host: &mut dyn Host,
    name: &[u8],
    body: &NmReqValePolling,
) -> Result<(), Errno> {
    let name = text(name)?;
    let (first, count) = (body.nr_first_cpu_id, body.nr_num_polling_cpus);
    let possible = match body.nr_mode {
        polling::SINGLE_CPU => count == 1,
        polling::MULTI_CPU => count >= 1 && first.checked_add(count).is_some(),
        _ => false,
    };
    if !is_vale(name) || !possible {
        return Err(Errno::EINVAL);
    }
    host.polling(name, Some((body.nr_mode, first, count)))
}

/// `VALE_POLLING_DISABLE`. Its body is not looked at.
pub(crate) fn polling_disable(host: &mut dyn Host, name: &[u8]) -> Result<(), Errno> {
    let name = text(name)?;
    if !is_vale(name) {
        return Err(Errno::EINVAL);
    }
    host.polling(name, None)
}
