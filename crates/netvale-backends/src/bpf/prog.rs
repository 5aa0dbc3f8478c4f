//! Programs and what attaches them.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::sys::{self, LoadAs};
use super::{BpfError, Insn, interface_name, os_error, query, xdp_state};

const PROG_SCHED_CLS: u32 = 3;
const PROG_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
pub(super) const ATTACH_TCX_INGRESS: u32 = 46;
pub(super) const ATTACH_TCX_EGRESS: u32 = 47;
const FLAG_HAS_FRAGS: u32 = 1 << 5;
const FLAG_DEV_BOUND_ONLY: u32 = 1 << 6;
const LICENCE: &CStr = c"MIT OR Apache-2.0";
/// The same licence, of which this takes the first, in words that the kernel
/// knows: it lets no other program call its functions.
const LICENCE_OF_CALLERS: &CStr = c"Dual MIT/GPL";
const XDP_FLAG_GENERIC: u32 = 1 << 1;
const XDP_FLAG_NATIVE: u32 = 1 << 2;
/// Of the verifier's words, those at the end say what is wrong.
const LOG_BYTES: usize = 64 << 10;
const LOG_LINES: usize = 12;

/// What kind of program it is, which says where it can be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramKind {
    /// Sees received frames before the stack. `frags`: also those that lie in
    /// several pieces, without which interfaces with a large MTU refuse it.
    Xdp {
        /// Takes frames in several pieces.
        frags: bool,
    },
    /// Sees received frames of this interface alone, also those in several
    /// pieces, and may ask its driver what the kernel keeps beside them.
    XdpOf(u32),
    /// Sees packets on their way into or out of the stack.
    Tc,
}

impl ProgramKind {
    fn loaded_as(self, name: &str) -> LoadAs<'_> {
        let xdp = LoadAs {
            kind: PROG_XDP,
            name,
            flags: 0,
            attach_type: ATTACH_XDP,
            ifindex: 0,
            licence: LICENCE,
        };
        match self {
            Self::Xdp { frags: false } => xdp,
            Self::Xdp { frags: true } => LoadAs {
                flags: FLAG_HAS_FRAGS,
                ..xdp
            },
            Self::XdpOf(ifindex) => LoadAs {
                flags: FLAG_HAS_FRAGS | FLAG_DEV_BOUND_ONLY,
                ifindex,
                licence: LICENCE_OF_CALLERS,
                ..xdp
            },
            Self::Tc => LoadAs {
                kind: PROG_SCHED_CLS,
                attach_type: 0,
                ..xdp
            },
        }
    }
}

/// Who runs an XDP program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// The driver, before the kernel has made a packet of the frame.
    Native,
    /// The stack, for any driver, at about half the rate.
    Generic,
}

impl std::fmt::Display for XdpMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// A program in the kernel, attached to nothing yet.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    name: String,
}

impl Program {
    /// Loads one. `name` is what `bpftool prog` shows; its first 15 bytes
    /// count.
    ///
    /// # Errors
    ///
    /// Without the privilege, and [`BpfError::Verifier`] with the verifier's
    /// words.
    pub fn load(kind: ProgramKind, name: &str, insns: &[Insn]) -> Result<Self, BpfError> {
        let what = kind.loaded_as(name);
        let refused = match sys::prog_load(what, insns, &mut []) {
            Ok(fd) => {
                return Ok(Self {
                    fd,
                    name: name.into(),
                });
            }
            Err(e) => e,
        };
        // Again, for the reasons: writing them down costs time, so the first
        // attempt asks for none. Without the privilege there are none.
        let mut log = vec![0; LOG_BYTES];
        if let Ok(fd) = sys::prog_load(what, insns, &mut log) {
            return Ok(Self {
                fd,
                name: name.into(),
            });
        }
        match last_lines(&log) {
            log if log.is_empty() => Err(os_error("load the BPF program", name, refused)),
            log => Err(BpfError::Verifier {
                name: name.into(),
                log,
                source: refused,
            }),
        }
    }

    /// Attaches an XDP program to an interface.
    ///
    /// # Errors
    ///
    /// [`BpfError::Busy`] if another program is there, or a program in the
    /// other mode; [`BpfError::Unsupported`] if the driver cannot.
    pub fn attach_xdp(&self, ifindex: u32, mode: XdpMode) -> Result<Link, BpfError> {
        let flag = match mode {
            XdpMode::Native => XDP_FLAG_NATIVE,
            XdpMode::Generic => XDP_FLAG_GENERIC,
        };
        let link = sys::link_create(self.fd.as_fd(), ifindex, ATTACH_XDP, flag);
        let fd = link.map_err(|e| self.xdp_refused(ifindex, mode, e))?;
        Ok(Link { _fd: fd })
    }

    /// Runs an XDP program on `repeat` copies of a frame, and does with each
    /// what the program answers, as if the loopback interface of the calling
    /// thread's network namespace had received it: a program that redirects
    /// makes a generator of frames, faster than any socket. A call takes some
    /// milliseconds more than the frames do.
    ///
    /// # Errors
    ///
    /// Before Linux 5.18, for no XDP program, a frame that is shorter than its
    /// header or longer than a page, and without the privilege.
    pub fn generate(&self, frame: &[u8], repeat: u32) -> Result<(), BpfError> {
        match sys::test_run_live(self.fd.as_fd(), frame, repeat) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                Err(os_error("run the BPF program", &self.name, e))
            }
            _ => Ok(()),
        }
    }

    /// Attaches a tc program to what an interface sends, behind the programs
    /// that are there.
    ///
    /// # Errors
    ///
    /// [`BpfError::Unsupported`] before Linux 6.6.
    pub fn attach_egress(&self, ifindex: u32) -> Result<Link, BpfError> {
        self.attach_tcx(ifindex, ATTACH_TCX_EGRESS)
    }

    /// The same for what an interface receives.
    ///
    /// # Errors
    ///
    /// [`BpfError::Unsupported`] before Linux 6.6.
    pub fn attach_ingress(&self, ifindex: u32) -> Result<Link, BpfError> {
        self.attach_tcx(ifindex, ATTACH_TCX_INGRESS)
    }

    fn attach_tcx(&self, ifindex: u32, attach_type: u32) -> Result<Link, BpfError> {
        match sys::link_create(self.fd.as_fd(), ifindex, attach_type, 0) {
            Ok(fd) => Ok(Link { _fd: fd }),
            // Who does not know the place does not know the query either.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && !query::has_tcx(ifindex) => {
                Err(BpfError::Unsupported {
                    what: format!("attach {} to {}", self.name, interface_name(ifindex)),
                    needs: "tcx links need Linux 6.6 with CONFIG_NET_XGRESS",
                    source: e,
                })
            }
            Err(e) => Err(os_error("attach the BPF program", self.place(ifindex), e)),
        }
    }

    fn xdp_refused(&self, ifindex: u32, mode: XdpMode, e: io::Error) -> BpfError {
        let unsupported = |needs, source| BpfError::Unsupported {
            what: format!("attach {mode} XDP to {}", interface_name(ifindex)),
            needs,
            source,
        };
        match e.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => BpfError::Busy {
                interface: interface_name(ifindex),
                holder: holder(ifindex),
                source: e,
            },
            Some(libc::EOPNOTSUPP) => unsupported(
                "its driver has no native XDP, or the program and the interface's settings \
                 (LRO, MTU) do not go together; generic XDP works everywhere",
                e,
            ),
            Some(libc::ERANGE) => unsupported(
                "the MTU (or that of the other end) is too large for a program that takes \
                 frames in one piece: lower it, or allow several pieces",
                e,
            ),
            Some(libc::EINVAL) => unsupported(
                "the interface does not take it as it is set up, or XDP links are missing \
                 (Linux 5.9)",
                e,
            ),
            _ => os_error("attach the XDP program", self.place(ifindex), e),
        }
    }

    fn place(&self, ifindex: u32) -> String {
        format!("{} to {}", self.name, interface_name(ifindex))
    }
}

/// What is in the way, as well as it can be found out.
fn holder(ifindex: u32) -> String {
    let Ok(state) = xdp_state(ifindex) else {
        return "another program".into();
    };
    let of = |id: Option<u32>, mode| {
        let id = id?;
        let name = sys::prog_name(id).unwrap_or_default();
        Some(format!("{mode} program {id} {name:?}"))
    };
    of(state.native, XdpMode::Native)
        .or_else(|| of(state.generic, XdpMode::Generic))
        .unwrap_or_else(|| "another program".into())
}

fn last_lines(log: &[u8]) -> String {
    let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// A program attached to an interface, until this is dropped or the process
/// ends, however that happens. (A child that is being started at that instant
/// holds it until it runs its own program.)
#[derive(Debug)]
pub struct Link {
    _fd: OwnedFd,
}
