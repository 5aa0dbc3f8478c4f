//! Programs and maps in the kernel, through bpf(2), with nothing in between.
//!
//! Programs are put together here ([`Asm`]), so that no compiler and no object
//! file is needed. [`Program::load`] hands one to the kernel, [`Link`] attaches
//! it to an interface until the link is dropped: the kernel detaches it too
//! when the process dies, so an interface is never left cut off.
//!
//! Nothing is pinned. What exists in the kernel is held by descriptors of
//! this process (and of those to whom they are passed) and by nothing else.
//!
//! Needs CAP_BPF and CAP_NET_ADMIN; XDP as a link needs Linux 5.9, tcx 6.6.

mod asm;
#[cfg(feature = "af_xdp")]
mod btf;
#[cfg(feature = "af_xdp")]
mod features;
mod map;
mod prog;
mod query;
mod sys;

use std::io;

pub use asm::{Asm, Helper, Insn, Label, Reg, Width};
#[cfg(feature = "af_xdp")]
pub(crate) use btf::kernel_function;
#[cfg(feature = "af_xdp")]
pub use features::XdpFeatures;
pub use map::{Cell, XskMap};
pub use prog::{Link, Program, ProgramKind, XdpMode};
#[cfg(feature = "af_xdp")]
pub(crate) use query::{LinkMessage, attributes, exchange};
pub use query::{XdpState, tc_programs, xdp_state};

use crate::OsError;

/// Name of the program that lets injected frames into the stack.
#[cfg(any(feature = "af_xdp", feature = "host"))]
pub(crate) const HOST_GATE: &str = "nv_host_gate";

/// Why the kernel did not take a program or a map.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BpfError {
    /// It refused the operation.
    #[error(transparent)]
    Os(#[from] OsError),
    /// It does not believe that a program is safe.
    #[error("the kernel's verifier refuses program {name}: {log}")]
    Verifier {
        /// The program.
        name: String,
        /// What the verifier said, its last lines.
        log: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody else's program is in the place.
    #[error(
        "cannot attach an XDP program to {interface}: {holder} is there \
         (remove it with `ip link set dev NAME xdp off`, or end the program that holds it)"
    )]
    Busy {
        /// The interface.
        interface: String,
        /// What is there.
        holder: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Generic XDP and frames given to the stack would chase each other: each
    /// frame given to the stack passes generic XDP again.
    #[error(
        "generic XDP on {interface} and a connection to its host stack exclude each other: \
         {present} is there already (use native XDP)"
    )]
    Loop {
        /// The interface.
        interface: String,
        /// Which of the two is there.
        present: &'static str,
    },
    /// The kernel, or the interface's driver, cannot do it.
    #[error("cannot {what}: {needs}")]
    Unsupported {
        /// What was wanted.
        what: String,
        /// What it would need.
        needs: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

#[cfg(feature = "af_xdp")]
impl BpfError {
    /// With the kernel's answer, in one line.
    pub(crate) fn in_a_line(&self) -> String {
        let answer = std::error::Error::source(self).map(|e| format!(": {e}"));
        format!("{self}{}", answer.unwrap_or_default()).replace('\n', "; ")
    }
}

/// What to do about a refusal for want of privilege.
const PRIVILEGE: &str = "run as root or with CAP_BPF and CAP_NET_ADMIN";

/// The same where capabilities are not the kernel's.
pub(crate) const IN_USER_NAMESPACE: &str =
    "BPF programs need the capabilities outside of this user namespace";

/// Whether this process is in a user namespace of its own (a rootless
/// container), whose root has no capability that bpf(2) would heed.
pub(crate) fn in_user_namespace() -> bool {
    use std::os::unix::fs::MetadataExt;
    /// The kernel's PROC_USER_INIT_INO.
    const INITIAL: u64 = 0xefff_fffd;
    std::fs::metadata("/proc/self/ns/user").is_ok_and(|m| m.ino() != INITIAL)
}

/// An error with the hint that bpf(2) needs.
fn os_error(what: &'static str, object: impl Into<String>, source: io::Error) -> BpfError {
    let code = source.raw_os_error();
    let e = OsError::new(what, object, source);
    BpfError::Os(match code {
        Some(libc::EPERM | libc::EACCES) if in_user_namespace() => e.hint(IN_USER_NAMESPACE),
        Some(libc::EPERM | libc::EACCES) => e.hint(PRIVILEGE),
        Some(libc::ENODEV) => e.hint("there is no such interface in this network namespace"),
        _ => e,
    })
}

/// An interface as errors name it: by its name, if it has one here.
pub(crate) fn interface_name(ifindex: u32) -> String {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    socket(AddressFamily::UNIX, SocketType::DGRAM, None)
        .and_then(|any| netdevice::index_to_name(any, ifindex))
        .unwrap_or_else(|_| format!("interface {ifindex}"))
}

/// Refuses generic XDP where frames are given to the stack.
#[cfg(feature = "af_xdp")]
pub(crate) fn refuse_loop(ifindex: u32) -> Result<(), BpfError> {
    let refused = |present| {
        Err(BpfError::Loop {
            interface: interface_name(ifindex),
            present,
        })
    };
    match tc_programs(ifindex) {
        Ok((ingress, _)) if ingress.iter().any(|name| name == HOST_GATE) => {
            refused("the connection")
        }
        // Only CAP_SYS_ADMIN may read names. To be wrong here costs the whole
        // machine its time.
        Ok((ingress, _)) if ingress.iter().any(String::is_empty) => {
            refused("a tc program whose name cannot be read, maybe the connection,")
        }
        // A kernel without tcx has no such connection.
        Ok(_) | Err(BpfError::Unsupported { .. }) => Ok(()),
        Err(e) => Err(e),
    }
}
