//! `REGISTER`: binds the file to a port.

use alloc::string::ToString;

use netvale_wire::abi::{
    NmReqOptCsb, NmReqOptExtmem, NmReqOptOffsets, NmReqPoolsInfo, NmReqRegister, mode, opttype,
    regflags,
};

use crate::options::Options;
use crate::{Bound, Errno, Extmem, Host, Memory, Offsets, Pool, Register, UserMem, kloop, text};

/// Checks and translates the request, has it carried out and fills in the
/// answer. Nothing is bound after an error.
pub(crate) fn register(
    host: &mut dyn Host,
    mem: &dyn UserMem,
    name: &[u8],
    body: &mut NmReqRegister,
    options: &mut Options,
) -> Result<(), Errno> {
    if host.bound().is_some() {
        return Err(Errno::EBUSY);
    }
    let name = text(name)?;
    let extmem = options.get::<NmReqOptExtmem>(opttype::EXTMEM);
    // External memory wins.
    let mem_id = if extmem.is_some() { 0 } else { body.nr_mem_id };
    check_target(host, name, body.nr_mode, mem_id, extmem.is_some())?;

    let mut flags = body.nr_flags;
    if flags & regflags::ZCOPY_MON != 0 {
        flags |= regflags::MONITOR_TX | regflags::MONITOR_RX;
    }
    let offsets = options
        .get::<NmReqOptOffsets>(opttype::OFFSETS)
        .map(|wish| check_offsets(&wish));
    let want = Register {
        name: name.to_string(),
        mode: body.nr_mode,
        ringid: body.nr_ringid,
        flags,
        mem_id,
        rings: [
            body.nr_tx_rings,
            body.nr_rx_rings,
            body.nr_host_tx_rings,
            body.nr_host_rx_rings,
        ],
        slots: [body.nr_tx_slots, body.nr_rx_slots],
        extra_bufs: body.nr_extra_bufs,
        extmem: extmem.as_ref().map(wish_of),
        // Bad offsets are not found before the port is, and found not to
        // support them: so ask for something that every port can give.
        offsets: offsets.map(|wish| {
            wish.unwrap_or(Offsets {
                bits: 1,
                ..Offsets::default()
            })
        }),
    };
    let bound = match host.register(&want) {
        Ok(bound) => bound,
        Err(e) => {
            blame(options, e);
            return Err(e);
        }
    };
    let settled = settle(host, mem, &bound, flags, offsets, options);
    if settled.is_err() {
        host.unregister();
        return settled;
    }

    body.nr_flags = flags;
    body.nr_offset = bound.nif_offset;
    body.nr_memsize = bound.port.memsize;
    body.nr_mem_id = bound.port.mem_id;
    [body.nr_tx_slots, body.nr_rx_slots] = bound.port.slots;
    [
        body.nr_tx_rings,
        body.nr_rx_rings,
        body.nr_host_tx_rings,
        body.nr_host_rx_rings,
    ] = bound.port.rings;
    body.nr_extra_bufs = bound.extra_bufs;
    Ok(())
}

/// Refuses requests that make no sense for any port, but not before an error
/// that netmap would find in the region or the name.
fn check_target(
    host: &mut dyn Host,
    name: &str,
    mode: u32,
    mem_id: u16,
    extmem: bool,
) -> Result<(), Errno> {
    match mode {
        mode::NULL if mem_id == 0 && !extmem => return Err(Errno::EINVAL),
        mode::NULL => return Ok(()),
        mode::PIPE_MASTER | mode::PIPE_SLAVE => return Err(Errno::EINVAL),
        _ => {}
    }
    if name.is_empty() {
        if mem_id != 0 {
            host.memory(mem_id)?;
        }
        return Err(Errno::ENXIO);
    }
    match mode {
        mode::ALL_NIC | mode::SW | mode::NIC_SW | mode::ONE_NIC | mode::ONE_SW => Ok(()),
        _ => {
            host.port_info(name, mem_id)?;
            Err(Errno::EINVAL)
        }
    }
}

/// What the offsets option wishes for, if it makes sense without knowing the
/// port.
fn check_offsets(wish: &NmReqOptOffsets) -> Result<Offsets, Errno> {
    let bits = match wish.nro_offset_bits {
        0 => u64::BITS,
        bits => bits,
    };
    if bits > u64::BITS {
        return Err(Errno::EINVAL);
    }
    let mask = u64::MAX >> (u64::BITS - bits);
    if wish.nro_max_offset > mask || wish.nro_initial_offset > wish.nro_max_offset {
        return Err(Errno::EINVAL);
    }
    Ok(Offsets {
        max: wish.nro_max_offset,
        initial: wish.nro_initial_offset,
        bits,
        tx_align: wish.nro_tx_align,
        min_gap: wish.nro_min_gap,
    })
}

/// After a failed registration: marks the options that can be its reason.
fn blame(options: &mut Options, e: Errno) {
    if matches!(
        e,
        Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOMEM | Errno::EFAULT
    ) {
        options.set(opttype::EXTMEM, Err(e));
    } else {
        // The region was made, the failure came later.
        options.set(opttype::EXTMEM, Ok(()));
    }
    if matches!(e, Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EBUSY) {
        options.set(opttype::OFFSETS, Err(e));
    }
}

/// The steps after the file was bound: answers of options, control blocks, and
/// that no option is left over.
fn settle(
    host: &mut dyn Host,
    mem: &dyn UserMem,
    bound: &Bound,
    flags: u64,
    offsets: Option<Result<Offsets, Errno>>,
    options: &mut Options,
) -> Result<(), Errno> {
    if let Some(made) = &bound.extmem
        && let Some(mut opt) = options.get::<NmReqOptExtmem>(opttype::EXTMEM)
    {
        applied(&mut opt.nro_info, made);
        options.put(opttype::EXTMEM, &opt);
        options.set(opttype::EXTMEM, Ok(()));
    }
    if let Some(wish) = offsets {
        let checked = match &bound.offsets {
            Some(given) => wish.map(|_| given.max),
            None => Err(Errno::EOPNOTSUPP),
        };
        options.set(opttype::OFFSETS, checked.map(|_| ()));
        let max = checked?;
        if let Some(mut opt) = options.get::<NmReqOptOffsets>(opttype::OFFSETS) {
            opt.nro_max_offset = max;
            options.put(opttype::OFFSETS, &opt);
        }
    }
    if let Some(opt) = options.get::<NmReqOptCsb>(opttype::CSB) {
        let exclusive = flags & regflags::EXCLUSIVE != 0;
        let done = kloop::use_csb(host, mem, bound, exclusive, &opt);
        options.set(opttype::CSB, done);
        done?;
    }
    if options.leftover() {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(())
}

/// The external memory that an option describes.
fn wish_of(opt: &NmReqOptExtmem) -> Extmem {
    let info = &opt.nro_info;
    let pool = |offset, count, size| Pool {
        offset,
        count,
        size,
    };
    Extmem {
        addr: opt.nro_usrptr,
        memory: Memory {
            size: info.nr_memsize,
            id: info.nr_mem_id,
            ifs: pool(
                info.nr_if_pool_offset,
                info.nr_if_pool_objtotal,
                info.nr_if_pool_objsize,
            ),
            rings: pool(
                info.nr_ring_pool_offset,
                info.nr_ring_pool_objtotal,
                info.nr_ring_pool_objsize,
            ),
            bufs: pool(
                info.nr_buf_pool_offset,
                info.nr_buf_pool_objtotal,
                info.nr_buf_pool_objsize,
            ),
        },
    }
}

/// Puts the defaults that were applied where the program left the choice; all
/// else comes back as given.
fn applied(info: &mut NmReqPoolsInfo, made: &Memory) {
    let put = |field: &mut u32, value: u32| {
        if *field == 0 {
            *field = value;
        }
    };
    put(&mut info.nr_if_pool_objtotal, made.ifs.count);
    put(&mut info.nr_if_pool_objsize, made.ifs.size);
    put(&mut info.nr_ring_pool_objtotal, made.rings.count);
    put(&mut info.nr_ring_pool_objsize, made.rings.size);
    put(&mut info.nr_buf_pool_objtotal, made.bufs.count);
    put(&mut info.nr_buf_pool_objsize, made.bufs.size);
}
