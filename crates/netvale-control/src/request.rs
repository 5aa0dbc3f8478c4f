//! `NIOCCTRL`: the header, and the way of a request's parts in and out.

use netvale_wire::abi::{
    NETMAP_MAX_API, NETMAP_MIN_API, NmReqHeader, NmReqPoolsInfo, NmReqPortHdr, NmReqPortInfoGet,
    NmReqRegister, NmReqSyncKloopStart, NmReqValeAttach, NmReqValeDetach, NmReqValeList,
    NmReqValeNewif, NmReqValePolling, reqtype,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::options::Options;
use crate::{Errno, Host, Outcome, UserMem, ctrl, kloop, register};

/// Size of the largest body, bytes.
const MAX_BODY: usize = 64;

/// Bytes of a request's body. Requests without one and unknown types: 0.
fn body_len(reqtype: u16) -> usize {
    match reqtype {
        reqtype::REGISTER => size_of::<NmReqRegister>(),
        reqtype::PORT_INFO_GET => size_of::<NmReqPortInfoGet>(),
        reqtype::VALE_ATTACH => size_of::<NmReqValeAttach>(),
        reqtype::VALE_DETACH => size_of::<NmReqValeDetach>(),
        reqtype::VALE_LIST => size_of::<NmReqValeList>(),
        reqtype::PORT_HDR_SET | reqtype::PORT_HDR_GET => size_of::<NmReqPortHdr>(),
        reqtype::VALE_NEWIF => size_of::<NmReqValeNewif>(),
        reqtype::VALE_POLLING_ENABLE | reqtype::VALE_POLLING_DISABLE => {
            size_of::<NmReqValePolling>()
        }
        reqtype::POOLS_INFO_GET => size_of::<NmReqPoolsInfo>(),
        reqtype::SYNC_KLOOP_START => size_of::<NmReqSyncKloopStart>(),
        _ => 0,
    }
}

/// Carries out the request in `header`.
pub(crate) fn control(host: &mut dyn Host, mem: &dyn UserMem, header: &mut NmReqHeader) -> Outcome {
    if let Some(last) = header.nr_name.last_mut() {
        *last = 0;
    }
    if !(NETMAP_MIN_API..=NETMAP_MAX_API).contains(&header.nr_version) || header.nr_reserved != 0 {
        return Errno::EINVAL.into();
    }
    let len = body_len(header.nr_reqtype);
    if (len == 0) != (header.nr_body == 0) {
        return Errno::EINVAL.into();
    }
    let mut space = [0; MAX_BODY];
    let Some(body) = space.get_mut(..len) else {
        return Errno::EMSGSIZE.into();
    };
    if len > 0
        && let Err(e) = mem.read(header.nr_body, body)
    {
        return e.into();
    }
    let mut options = Options::default();
    let mut result = options.copy_in(mem, header.nr_options, len);
    if result.is_ok() {
        result = dispatch(host, mem, header, body, &mut options);
    }
    let bound = result.is_ok() && header.nr_reqtype == reqtype::REGISTER;
    if result.is_ok() && len > 0 {
        result = mem.write(header.nr_body, body);
    }
    Outcome {
        result: options.copy_out(mem, result),
        bound,
    }
}

/// Hands the request to its function; the body changes on success only.
fn dispatch(
    host: &mut dyn Host,
    mem: &dyn UserMem,
    header: &mut NmReqHeader,
    body: &mut [u8],
    options: &mut Options,
) -> Result<(), Errno> {
    let given = *header;
    let name = given.name();
    match header.nr_reqtype {
        reqtype::REGISTER => edit(body, |b| register::register(host, mem, name, b, options)),
        reqtype::PORT_INFO_GET => edit(body, |b| ctrl::port_info_get(host, name, b)),
        reqtype::VALE_ATTACH => edit(body, |b| ctrl::vale_attach(host, name, b)),
        reqtype::VALE_DETACH => edit(body, |b| ctrl::vale_detach(host, name, b)),
        reqtype::VALE_LIST => edit(body, |b| {
            ctrl::vale_list(host, name, b, &mut header.nr_name)
        }),
        reqtype::PORT_HDR_SET => edit(body, |b| ctrl::port_hdr_set(host, name, b)),
        reqtype::PORT_HDR_GET => edit(body, |b| ctrl::port_hdr_get(host, name, b)),
        reqtype::VALE_NEWIF => edit(body, |b| ctrl::vale_newif(host, name, b)),
        reqtype::VALE_DELIF => ctrl::vale_delif(host, name),
        reqtype::VALE_POLLING_ENABLE => edit(body, |b| ctrl::polling_enable(host, name, b)),
        reqtype::VALE_POLLING_DISABLE => ctrl::polling_disable(host, name),
        reqtype::POOLS_INFO_GET => edit(body, |b| ctrl::pools_info_get(host, name, b)),
        reqtype::SYNC_KLOOP_START => edit(body, |b| kloop::start(host, b, options)),
        reqtype::SYNC_KLOOP_STOP => {
            host.kloop_stop();
            Ok(())
        }
        reqtype::CSB_ENABLE => kloop::csb_enable(host, mem, options),
        _ => Err(Errno::EINVAL),
    }
}

/// Runs `f` on the body as what it is.
fn edit<T: FromBytes + IntoBytes + Immutable>(
    body: &mut [u8],
    f: impl FnOnce(&mut T) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut value = T::read_from_bytes(body).ok().ok_or(Errno::EINVAL)?;
    f(&mut value)?;
    body.copy_from_slice(value.as_bytes());
    Ok(())
}
