//! What the control ABI needs from the process it runs in.

use alloc::string::String;
use alloc::vec::Vec;

use crate::Errno;

/// The memory of the calling process. Addresses come from the program and may
/// be anything.
pub trait UserMem {
    /// Copies from the program.
    ///
    /// # Errors
    ///
    /// [`Errno::EFAULT`]: not all of it can be read.
    fn read(&self, addr: u64, bytes: &mut [u8]) -> Result<(), Errno>;

    /// Copies to the program.
    ///
    /// # Errors
    ///
    /// [`Errno::EFAULT`]: not all of it can be written.
    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno>;
}

/// What binds a file to a port: `REGISTER`, or the old `NIOCREGIF`, checked
/// and translated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Register {
    /// Name of the port as requests carry it.
    pub name: String,
    /// One of [`mode`](netvale_wire::abi::mode); never `DEFAULT` or a pipe mode.
    pub mode: u32,
    /// Ring for `ONE_NIC` and `ONE_SW`.
    pub ringid: u16,
    /// [`regflags`](netvale_wire::abi::regflags), unknown bits as given.
    pub flags: u64,
    /// Region asked for; 0 for the port's own.
    pub mem_id: u16,
    /// Rings wanted, 0 for the default: transmit, receive, host transmit, host
    /// receive.
    pub rings: [u16; 4],
    /// Slots wanted, 0 for the default: of transmit rings, of receive rings.
    pub slots: [u32; 2],
    /// Buffers wanted besides those in the rings.
    pub extra_bufs: u32,
    /// The region is to be this memory of the caller.
    pub extmem: Option<Extmem>,
    /// Frames begin at offsets.
    pub offsets: Option<Offsets>,
}

/// Memory of the caller that becomes a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extmem {
    /// Where it begins.
    pub addr: u64,
    /// Its size and how to divide it.
    pub memory: Memory,
}

/// One pool of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pool {
    /// Where it begins in the region, bytes.
    pub offset: u64,
    /// Objects; in a wish, 0 for the default.
    pub count: u32,
    /// Bytes of an object; in a wish, 0 for the default.
    pub size: u32,
}

/// A region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Bytes.
    pub size: u64,
    /// Its number.
    pub id: u16,
    /// Interface descriptors.
    pub ifs: Pool,
    /// Rings.
    pub rings: Pool,
    /// Buffers.
    pub bufs: Pool,
}

/// Offsets of frames in their buffers, wish in and truth out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offsets {
    /// Largest offset, bytes.
    pub max: u64,
    /// Offset put in all slots, bytes.
    pub initial: u64,
    /// Low bits of a slot's pointer that hold the offset, 1 to 64.
    pub bits: u32,
    /// Alignment that transmission needs, bytes; 0 for none.
    pub tx_align: u32,
    /// Bytes to keep free at the end of a buffer.
    pub min_gap: u64,
}

/// A port's geometry: the answer to `PORT_INFO_GET`, and the larger part of
/// that to `REGISTER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Port {
    /// Size of its region, bytes.
    pub memsize: u64,
    /// Number of its region.
    pub mem_id: u16,
    /// Rings: transmit, receive, host transmit, host receive.
    pub rings: [u16; 4],
    /// Slots: of transmit rings, of receive rings.
    pub slots: [u32; 2],
}

/// What a file is bound to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bound {
    /// The port.
    pub port: Port,
    /// Offset of the interface descriptor in the region, bytes.
    pub nif_offset: u64,
    /// Extra buffers given.
    pub extra_bufs: u32,
    /// Transmit and receive rings bound, host rings included.
    pub bound: [u32; 2],
    /// The region that the caller's memory has become.
    pub extmem: Option<Memory>,
    /// Offsets in force.
    pub offsets: Option<Offsets>,
}

/// What `VALE_ATTACH` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attach {
    /// `switch:interface`.
    pub name: String,
    /// The host's stack is attached too (`NIC_SW`).
    pub host: bool,
    /// Region asked for; 0 for the interface's own.
    pub mem_id: u16,
}

/// A port of a switch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListEntry {
    /// Number of the switch.
    pub bridge_idx: u16,
    /// Index of the port in it.
    pub port_idx: u32,
    /// Full name, `switch:port`.
    pub name: String,
}

/// A persistent port's shape: wish in, truth out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NewIf {
    /// Transmit and receive rings.
    pub rings: [u16; 2],
    /// Slots of transmit and receive rings.
    pub slots: [u32; 2],
    /// Region; 0 for one of its own.
    pub mem_id: u16,
}

/// Eventfds of one ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Eventfds {
    /// Signalled by the program.
    pub ioeventfd: i32,
    /// Signalled by the loop; -1 for none.
    pub irqfd: i32,
}

/// How the sync loop is to run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kloop {
    /// Pause between rounds, microseconds.
    pub sleep_us: u32,
    /// Of each bound ring, transmit rings first; `None` to run without.
    pub eventfds: Option<Vec<Eventfds>>,
    /// Sync transmit rings in the context of the notifier.
    pub direct_tx: bool,
    /// Sync receive rings in the context of the notifier.
    pub direct_rx: bool,
}

/// One open file of `/dev/netmap`, and the namespace behind it.
///
/// Errors are `errno` values; unless a method says otherwise nothing has
/// changed after one.
pub trait Host {
    /// What the file is bound to, if it is.
    fn bound(&self) -> Option<Bound>;

    /// Binds the file to a port. Called for unbound files only.
    ///
    /// # Errors
    ///
    /// As `REGISTER`.
    fn register(&mut self, want: &Register) -> Result<Bound, Errno>;

    /// Undoes [`register`](Self::register), when a later step of the same
    /// request fails.
    fn unregister(&mut self);

    /// Geometry of a port, which is made and removed again if it is absent.
    /// `mem_id`: region asked for, or 0.
    ///
    /// # Errors
    ///
    /// As `PORT_INFO_GET` of a name.
    fn port_info(&mut self, name: &str, mem_id: u16) -> Result<Port, Errno>;

    /// A region by its number; 0 for the shared one.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`]: there is none of that number.
    fn memory(&mut self, mem_id: u16) -> Result<Memory, Errno>;

    /// Plugs an interface or persistent port into a switch; its index there.
    ///
    /// # Errors
    ///
    /// As `VALE_ATTACH`.
    fn attach(&mut self, want: &Attach) -> Result<u32, Errno>;

    /// Undoes it; the index it had.
    ///
    /// # Errors
    ///
    /// As `VALE_DETACH`.
    fn detach(&mut self, name: &str) -> Result<u32, Errno>;

    /// The region of a port that is looked up as by
    /// [`port_info`](Self::port_info). To be replaced where that region may be
    /// gone together with a port that was made for the look-up.
    ///
    /// # Errors
    ///
    /// As `POOLS_INFO_GET`.
    fn port_memory(&mut self, name: &str, mem_id: u16) -> Result<Memory, Errno> {
        let port = self.port_info(name, mem_id)?;
        self.memory(port.mem_id)
    }

    /// All ports of all switches, in any order.
    ///
    /// # Errors
    ///
    /// The namespace does not answer.
    fn list(&mut self) -> Result<Vec<ListEntry>, Errno>;

    /// Sets a switch port's virtio-net header length: 0, 10 or 12.
    ///
    /// # Errors
    ///
    /// [`Errno::ENXIO`]: no such port, or not of a switch.
    fn set_port_hdr(&mut self, name: &str, len: u32) -> Result<(), Errno>;

    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`Errno::ENXIO`]: no such port; [`Errno::ENODEV`]: no such pipe.
    fn port_hdr(&mut self, name: &str) -> Result<u32, Errno>;

    /// Makes a persistent port.
    ///
    /// # Errors
    ///
    /// As `VALE_NEWIF`.
    fn new_if(&mut self, name: &str, want: &NewIf) -> Result<NewIf, Errno>;

    /// Deletes it.
    ///
    /// # Errors
    ///
    /// As `VALE_DELIF`.
    fn del_if(&mut self, name: &str) -> Result<(), Errno>;

    /// Starts (`Some`: mode, first processor, processors) or stops polling
    /// threads of an attached interface.
    ///
    /// # Errors
    ///
    /// As `VALE_POLLING_*`.
    fn polling(&mut self, name: &str, want: Option<(u32, u32, u32)>) -> Result<(), Errno>;

    /// Moves head, cur and tail of all bound rings to the caller's memory:
    /// addresses of the two arrays, not 0, a multiple of 64 and accessible a
    /// moment ago. Called for files with at least one ring bound only; the
    /// second time, the new arrays replace the old ones.
    ///
    /// # Errors
    ///
    /// [`Errno::EBUSY`]: the sync loop runs; [`Errno::EINVAL`]: the file is not
    /// bound exclusively; [`Errno::EFAULT`]: the arrays are gone;
    /// [`Errno::ENOMEM`].
    fn csb_enable(&mut self, atok: u64, ktoa: u64) -> Result<(), Errno>;

    /// Whether the sync loop of this file runs, so that its arrays must not be
    /// written and it cannot be started again. Who says `false` here at all
    /// times refuses in [`csb_enable`](Self::csb_enable) and
    /// [`kloop_start`](Self::kloop_start).
    fn kloop_running(&self) -> bool {
        false
    }

    /// Runs the sync loop until it is stopped.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`]: the rings' pointers are not in the caller's memory;
    /// [`Errno::EBUSY`]: it runs already; [`Errno::EBADF`] or
    /// [`Errno::EINVAL`]: one of the descriptors is no eventfd.
    fn kloop_start(&mut self, want: &Kloop) -> Result<(), Errno>;

    /// Stops it, or the next one that starts.
    fn kloop_stop(&mut self);

    /// Passes opaque bytes to a switch's own code.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`]: no such switch, or it takes none.
    fn config(&mut self, name: &str, data: &mut [u8; 256]) -> Result<(), Errno>;
}
