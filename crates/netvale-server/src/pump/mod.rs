//! Devices: what the server moves frames for in its own name.
//!
//! ```text
//!  switch or pipe        pump (a thread)              device
//!   RX ring  ──frames──► Lane ──writev, sendmmsg──►   TAP, NIC, host stack,
//!   TX ring  ◄─buffers── Lane ◄──readv, recvmmsg───   capture file, tunnel
//! ```
//!
//! * [`DeviceSpec`] is what a name says, [`open`] makes it a [`Device`]: queues
//!   and what has to be kept while they are used.
//! * A [`Lane`] joins one queue and one pair of rings. Frames are
//!   received right into the buffers of free TX slots, and sent from those of
//!   RX slots.
//! * A [`Pump`] is a thread that serves lanes: those of all devices, unless a
//!   device has processors of its own.

mod burst;
mod nic;
mod pcap;
mod run;
mod slots;
mod spec;
mod tap;
mod vxlan;

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use netvale_backends::vxlan::VxlanSockets;
use netvale_shm::Doorbell;

pub(crate) use netvale_lane::{DeviceLane, Interest, Lane, Loss, Losses, Pushed, Trouble};
pub(crate) use nic::{Nic, Take, link_refusal};
pub(crate) use run::Pump;
pub(crate) use spec::DeviceSpec;
pub(crate) use tap::{lanes as tap_lanes, queues, refusal as tap_refusal};

use crate::listing::Refusal;

/// How many of the frames that a device counts itself have been told of.
#[derive(Debug, Default)]
struct Told(u64);

impl Told {
    /// Those that have come since, if any. `all`: what the device counts.
    fn since(&mut self, loss: Loss, all: u64) -> Option<(Loss, u64)> {
        let new = all - std::mem::replace(&mut self.0, all);
        (new > 0).then_some((loss, new))
    }
}

/// A device that is open.
#[derive(Debug)]
pub(crate) struct Device {
    /// What the port of a switch is called after it.
    pub(crate) name: String,
    /// Its queues.
    pub(crate) lanes: Vec<Box<dyn DeviceLane>>,
    /// Length of the virtio-net header of its frames.
    pub(crate) header: u8,
    /// What it is and how it is driven, for people.
    pub(crate) about: String,
    /// The host stack's side of an interface, a device of its own.
    pub(crate) host: Option<Box<Self>>,
    /// Programs in the kernel that go when the device is closed.
    pub(crate) keep: Keep,
    /// Number of the interface with which it ends.
    pub(crate) index: Option<u32>,
}

/// What a device is and what is wrong with it, while something is.
#[derive(Debug, Clone, Default)]
struct Failure(Arc<Mutex<Option<String>>>);

impl Failure {
    fn set(&self, text: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn get(&self) -> Option<String> {
        let text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone()
    }
}

/// Whatever must live as long as a device.
#[derive(Debug, Default)]
pub(crate) struct Keep {
    all: Vec<Box<dyn Kept>>,
    failure: Failure,
}

/// Something that undoes what it did when it is dropped.
pub(crate) trait Kept: Send + std::fmt::Debug {}
impl<T: Send + std::fmt::Debug> Kept for T {}

impl Keep {
    /// Keeps it.
    pub(crate) fn add(&mut self, it: impl Kept + 'static) {
        self.all.push(Box::new(it));
    }

    /// Its failure is said here.
    fn tells(&mut self, failure: &Failure) {
        self.failure = failure.clone();
    }

    /// What to say of the device instead of what it was when it was opened.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.get()
    }
}

/// How a device is to be used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    /// Length of the virtio-net header that frames may have: the device says
    /// what they do have.
    pub(crate) header: u8,
    /// The host stack's side of an interface is wanted too.
    pub(crate) host: bool,
}

/// Opens a device. `tunnels`: what it shares with others of its kind.
///
/// # Errors
///
/// Why not, and what to do about it; nothing is left behind.
pub(crate) fn open(spec: &DeviceSpec, how: Use, tunnels: &VxlanSockets) -> Result<Device, Refusal> {
    match spec {
        DeviceSpec::Tap(tap) => tap::open(tap, how),
        DeviceSpec::Nic(name) => nic::open(name, how),
        DeviceSpec::Pcap(pcap) => pcap::open(pcap),
        DeviceSpec::Vxlan(config) => vxlan::open(config, tunnels),
    }
}

/// What threads tell of lanes.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Its device is gone, and why.
    Gone(String),
    /// There are frames to be passed on, and nowhere to go.
    WantsOnward,
}

/// How threads tell of lanes.
#[derive(Debug, Clone)]
pub(crate) struct News {
    to: Sender<(u64, Heard)>,
    bell: Arc<Doorbell>,
}

impl News {
    /// `bell` is rung when there is something in the channel.
    pub(crate) fn new(to: Sender<(u64, Heard)>, bell: Arc<Doorbell>) -> Self {
        Self { to, bell }
    }

    fn tell(&self, lane: u64, what: Heard) {
        // Nobody hears it when the server ends.
        let _ = self.to.send((lane, what));
        self.bell.ring();
    }
}
