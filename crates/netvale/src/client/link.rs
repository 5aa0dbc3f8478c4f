//! One connection to a server.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use netvale_shm::channel::Channel;
use netvale_wire::proto::{
    Context, ErrorKind as Refused, MAX_MSG, PROTOCOL_VERSION, Reply, Request, SOCKET_NAME,
    StateFile, decode_reply, encode,
};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::registration::kept;
use crate::{Error, ErrorKind, Result};

/// A connection that has said hello.
#[derive(Debug)]
pub(crate) struct Link {
    channel: Channel,
    pid: u32,
}

/// What the server said to our hello.
#[derive(Debug)]
pub(crate) struct Welcome {
    pub(crate) instance: u64,
    pub(crate) context: Context,
    /// For the trusted: the hidden state.
    pub(crate) state: Option<(OwnedFd, StateFile)>,
}

/// Longest wait for an answer: the server does nothing slow, but the machine
/// may be busy.
const PATIENCE: Duration = Duration::from_secs(10);

const START_HINT: &str = "open the port again to start a new server, or run: netvale server";

impl Link {
    /// Connects and says hello.
    pub(crate) fn open(dir: &Path, isolated: bool) -> Result<(Self, Welcome)> {
        Self::open_within(dir, isolated, PATIENCE)
    }

    /// The same, and waits at most that long for each answer.
    pub(crate) fn open_within(
        dir: &Path,
        isolated: bool,
        patience: Duration,
    ) -> Result<(Self, Welcome)> {
        let mut link = Self::reach(dir, patience)?;
        let welcome = link.hello(isolated)?;
        Ok((link, welcome))
    }

    /// Connects, and says nothing yet.
    pub(crate) fn reach(dir: &Path, patience: Duration) -> Result<Self> {
        let channel =
            Channel::connect(dir, SOCKET_NAME, patience).map_err(|e| no_server(dir, e))?;
        Ok(Self {
            channel,
            pid: std::process::id(),
        })
    }

    /// Says hello.
    pub(crate) fn hello(&mut self, isolated: bool) -> Result<Welcome> {
        let hello = Request::Hello {
            version: PROTOCOL_VERSION,
            isolated,
            client: program_name(),
        };
        let (reply, fds) = self.ask(&hello)?;
        let Reply::Hello {
            version,
            instance,
            context,
            state,
            ..
        } = reply
        else {
            return Err(unexpected(&reply));
        };
        if version != PROTOCOL_VERSION {
            let message = format!("the server speaks version {version} of the protocol");
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        let state = match (context, state, fds.into_iter().next()) {
            (Context::Isolated, _, _) => None,
            (Context::Trusted, Some(state), Some(fd)) => Some((fd, state)),
            _ => {
                return Err(Error::new(
                    ErrorKind::Peer,
                    "the server sent no hidden state",
                ));
            }
        };
        Ok(Welcome {
            instance,
            context,
            state,
        })
    }

    /// Asks and waits for the answer. A refusal is an error.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<(Reply, Vec<OwnedFd>)> {
        self.say(request)?;
        let mut buf = vec![0; MAX_MSG];
        let mut fds = Vec::new();
        let n = self.receive(&mut buf, &mut fds).map_err(lost)?;
        if n == 0 {
            return Err(lost(io::ErrorKind::ConnectionReset.into()));
        }
        let bad = |e| Error::new(ErrorKind::Peer, format!("the server's answer: {e}"));
        match decode_reply(&buf[..n]).map_err(bad)? {
            Reply::Error {
                kind,
                message,
                hint,
            } => {
                let error = Error::new(kind_of(kind), message).refused(kind);
                Err(match hint {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                })
            }
            reply => Ok((reply, fds)),
        }
    }

    /// Asks, and leaves it at that: nothing may be asked over it afterwards.
    pub(crate) fn say(&mut self, request: &Request) -> Result<()> {
        let message = encode(request).map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))?;
        self.channel.send(&message, &[]).map_err(lost)
    }

    /// Throws away the answers that have come to what was only said.
    pub(crate) fn discard(&self) {
        self.channel.discard();
    }

    /// Waits for an answer, even if a program has made the socket non-blocking.
    fn receive(&self, buf: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.channel.recv(buf, fds) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !self.blocks() => {}
                done => return done,
            }
            let left = end.saturating_duration_since(Instant::now());
            let mut wait = [PollFd::new(&self.channel, PollFlags::IN)];
            match rustix::event::poll(&mut wait, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn blocks(&self) -> bool {
        rustix::fs::fcntl_getfl(&self.channel)
            .map_or(true, |flags| !flags.contains(rustix::fs::OFlags::NONBLOCK))
    }

    /// Over a socket that has said hello already.
    pub(crate) fn over(socket: OwnedFd) -> Self {
        Self {
            channel: Channel::from(socket),
            pid: std::process::id(),
        }
    }

    /// Another handle of the same connection.
    pub(crate) fn again(&self) -> Result<Self> {
        let socket = rustix::io::fcntl_dupfd_cloexec(&self.channel, 3);
        let socket = socket.map_err(|e| Error::io("cannot use the registration", e))?;
        Ok(Self::over(socket))
    }

    /// The same, to be kept for longer than a call.
    pub(crate) fn keep(self) -> Self {
        Self {
            channel: Channel::from(kept(self.channel.into())),
            pid: self.pid,
        }
    }

    /// Its socket.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.channel.into()
    }

    /// Whether it was opened by this process, not by one that forked us.
    pub(crate) fn is_ours(&self) -> bool {
        self.pid == std::process::id()
    }

    /// Whether the server still has its end open.
    pub(crate) fn is_open(&self) -> bool {
        self.channel.is_open()
    }
}

/// An answer to some other question.
pub(crate) fn unexpected(reply: &Reply) -> Error {
    let text = format!("{reply:?}");
    let name = text.split([' ', '(', '{']).next().unwrap_or_default();
    Error::new(
        ErrorKind::Peer,
        format!("unexpected answer of the server: {name}"),
    )
}

fn no_server(dir: &Path, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::new(
            ErrorKind::Disconnected,
            format!("no server runs in {}", dir.display()),
        )
        .with_hint(START_HINT),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => lost(e),
        io::ErrorKind::WouldBlock => Error::new(
            ErrorKind::Disconnected,
            format!("the server in {} does not answer", dir.display()),
        ),
        _ => Error::io(
            format_args!("cannot connect to the server in {}", dir.display()),
            e,
        ),
    }
}

fn lost(e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected => {
            Error::new(ErrorKind::Disconnected, "the server has ended").with_hint(START_HINT)
        }
        io::ErrorKind::WouldBlock => {
            Error::new(ErrorKind::Disconnected, "the server does not answer")
        }
        io::ErrorKind::InvalidData => {
            Error::new(ErrorKind::Peer, format!("the server's answer: {e}"))
        }
        _ => Error::io("cannot talk to the server", e),
    }
}

fn kind_of(kind: Refused) -> ErrorKind {
    match kind {
        Refused::NotFound | Refused::Missing => ErrorKind::NotFound,
        Refused::Busy => ErrorKind::Busy,
        Refused::Invalid => ErrorKind::Usage,
        Refused::NoMemory => ErrorKind::NoSpace,
        Refused::Denied | Refused::Unsupported => ErrorKind::Unavailable,
        Refused::Exists => ErrorKind::Exists,
        Refused::Protocol => ErrorKind::Peer,
        _ => ErrorKind::Io,
    }
}

fn program_name() -> String {
    let exe = std::env::current_exe().ok();
    let name = exe.as_deref().and_then(Path::file_name);
    name.map_or_else(String::new, |n| {
        n.to_string_lossy().chars().take(64).collect()
    })
}
