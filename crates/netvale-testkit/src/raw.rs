//! The control protocol and shared memory as they are, for peers that do not
//! keep to the rules.

use std::os::fd::OwnedFd;
use std::path::Path;

use netvale_ring::layout::{RegionGeom, StateGeom};
use netvale_ring::world::{RegionMap, World};
use netvale_shm::channel::Channel;
use netvale_shm::{Doorbell, Mem, Memfd};
use netvale_wire::proto::{
    MAX_MSG, PROTOCOL_VERSION, RegionInfo, Registered, Reply, Request, SOCKET_NAME, StateFile,
    Wanted, decode_reply, encode,
};

use crate::PATIENCE;

/// A connection to a server.
#[derive(Debug)]
pub struct Raw {
    channel: Channel,
    state: Option<(StateFile, OwnedFd)>,
}

/// A region and where its pools are.
#[derive(Debug)]
pub struct Region {
    /// Its memory.
    pub mem: Mem,
    /// Its pools.
    pub geom: RegionGeom,
    /// What the server said.
    pub info: RegionInfo,
}

impl Raw {
    /// Connects and says hello.
    ///
    /// # Panics
    ///
    /// If there is no server.
    #[must_use]
    pub fn connect(dir: &Path, isolated: bool) -> Self {
        let channel = Channel::connect(dir, SOCKET_NAME, PATIENCE).unwrap();
        let mut this = Self {
            channel,
            state: None,
        };
        let (reply, fds) = this.ask(&Request::Hello {
            version: PROTOCOL_VERSION,
            isolated,
            client: "test".into(),
        });
        let Reply::Hello { state, .. } = reply else {
            panic!("{reply:?}");
        };
        this.state = state.zip(fds.into_iter().next());
        this
    }

    /// Asks; the answer and what came along.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub fn ask(&mut self, request: &Request) -> (Reply, Vec<OwnedFd>) {
        self.channel.send(&encode(request).unwrap(), &[]).unwrap();
        let (mut buf, mut fds) = (vec![0; MAX_MSG], Vec::new());
        let n = self.channel.recv(&mut buf, &mut fds).unwrap();
        (decode_reply(&buf[..n]).unwrap(), fds)
    }

    /// Opens a port. The descriptors: region, doorbell, and for an isolated
    /// client the server's doorbell.
    ///
    /// # Panics
    ///
    /// If the server refuses.
    pub fn register(&mut self, spec: &str) -> (Registered, Region, Vec<Doorbell>) {
        let (reply, fds) = self.ask(&Request::Register {
            spec: spec.into(),
            want: Wanted::default(),
        });
        let Reply::Registered(reg) = reply else {
            panic!("{reply:?}");
        };
        let mut fds = fds.into_iter();
        let region = Region::map(&reg.region, fds.next().unwrap());
        (reg, region, fds.map(Doorbell::from).collect())
    }

    /// The hidden state.
    ///
    /// # Panics
    ///
    /// If it is not shown to us.
    #[must_use]
    pub fn world(&mut self) -> World {
        let (file, fd) = self.state.take().unwrap();
        let size = usize::try_from(file.size).unwrap();
        let mem = Memfd::from_fd(fd, size).unwrap().map().unwrap();
        World::attach(mem, StateGeom::from_array(file.geom).unwrap()).unwrap()
    }
}

impl Region {
    fn map(info: &RegionInfo, fd: OwnedFd) -> Self {
        let size = usize::try_from(info.size).unwrap();
        let [ifs, rings, ring_size, bufs, buf_size] = info.geom;
        Self {
            mem: Memfd::from_fd(fd, size).unwrap().map().unwrap(),
            geom: RegionGeom {
                ifs,
                rings,
                ring_size,
                bufs,
                buf_size,
            },
            info: *info,
        }
    }

    /// As the engine sees it.
    ///
    /// # Panics
    ///
    /// If its pools do not fit.
    #[must_use]
    pub fn to_map(&self) -> RegionMap {
        let i = &self.info;
        RegionMap::new(i.id, i.generation, i.shared, self.geom, self.mem.clone()).unwrap()
    }
}
