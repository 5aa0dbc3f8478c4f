//! Those who are killed.

use std::path::PathBuf;

use netvale_testkit::{Bed, Peer, Rng, Spec};

use crate::survivors::{RECEIVER, SENDER};

/// What a member of the herd is.
struct Kind {
    role: &'static str,
    port: &'static str,
    other: &'static str,
}

const fn kind(role: &'static str, port: &'static str, other: &'static str) -> Kind {
    Kind { role, port, other }
}

/// A `*` in a port's name is another one in each life; without, the next life
/// may find what the last one left.
const TRUSTED: &[Kind] = &[
    kind("sender", "vale0:c*", ""),
    kind("sender", "vale0:c0", ""),
    kind("sender", "vale0:c*", ""),
    kind("receiver", "vale0:d*", ""),
    kind("receiver", "vale0:d0", ""),
    kind("mover", "vale0:m0", "vale9:m0"),
    kind("mover", "vale0:m*", "vale8:m*"),
    kind("sender", "vale9:e*", ""),
    kind("sender", "vale8:e*", ""),
    kind("monitor", "vale0:r/r", ""),
    kind("monitor", "vale0:r/z", ""),
    kind("monitor", "vale0:s/z", ""),
    kind("monitor", "vale0:q{1/z", ""),
    kind("pipe", "vale0:x{1", ""),
    kind("pipe", "vale0:x}1", ""),
    kind("churn", "vale0:h", "vale0:r"),
];

const ISOLATED: &[Kind] = &[
    kind("sender", "vale0:c*", ""),
    kind("sender", "vale0:c0", ""),
    kind("receiver", "vale0:d*", ""),
    // One way only: the worker goes on for a moment with what the last life left,
    // and two that move frames to and fro are a loop.
    kind("carrier", "vale0:m*", "vale9:m*"),
    kind("sender", "vale9:e*", ""),
    kind("monitor", "vale0:r/rt", ""),
    kind("pipe", "vale0:x{1", ""),
    kind("pipe", "vale0:x}1", ""),
    kind("churn", "vale0:h", "vale0:r"),
];

/// Processes under load, to be killed and replaced.
pub(crate) struct Herd {
    kinds: &'static [Kind],
    isolated: bool,
    dir: PathBuf,
    test: &'static str,
    lives: u32,
    peers: Vec<Peer>,
}

impl Herd {
    pub(crate) fn trusted(bed: &Bed, test: &'static str) -> Self {
        Self::new(bed, test, TRUSTED, false)
    }

    pub(crate) fn isolated(bed: &Bed, test: &'static str) -> Self {
        Self::new(bed, test, ISOLATED, true)
    }

    fn new(bed: &Bed, test: &'static str, kinds: &'static [Kind], isolated: bool) -> Self {
        Self {
            kinds,
            isolated,
            dir: bed.dir().into(),
            test,
            lives: 100,
            peers: Vec::new(),
        }
    }

    pub(crate) fn fill(&mut self, rng: &mut Rng) {
        for i in 0..self.kinds.len() {
            let peer = self.bear(i, rng);
            self.peers.push(peer);
        }
    }

    fn bear(&mut self, i: usize, rng: &mut Rng) -> Peer {
        self.lives += 1;
        let kind = &self.kinds[i];
        let name = |n: &str| n.replace('*', &self.lives.to_string());
        let spec = Spec::new(kind.role, &self.dir)
            .set("port", name(kind.port))
            .set("other", name(kind.other))
            .set("isolated", self.isolated)
            .set("source", self.lives)
            .set(
                "to",
                format!("{RECEIVER},{RECEIVER},{SENDER},{}", self.lives - 1),
            )
            .set("seed", rng.word());
        Peer::start(self.test, &spec)
    }

    /// One dies, another takes its place.
    pub(crate) fn kill_one(&mut self, rng: &mut Rng) {
        let i = rng.below(self.peers.len());
        self.peers[i].kill();
        self.peers[i] = self.bear(i, rng);
    }

    /// All die.
    pub(crate) fn end(mut self) {
        self.peers.iter_mut().for_each(Peer::kill);
    }
}
