//! TCP and UDP between network namespaces, with every byte compared.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use crate::net::NetNs;
use crate::{PATIENCE, Rng};

/// Bytes that [`tcp`] sends each way.
const BYTES: usize = 4 << 20;

/// Random bytes; the same for the same salt.
fn bytes(len: usize, salt: u64) -> Vec<u8> {
    let mut rng = Rng::new(salt);
    let mut all = Vec::with_capacity(len + 8);
    while all.len() < len {
        all.extend_from_slice(&rng.word().to_le_bytes());
    }
    all.truncate(len);
    all
}

/// TCP from one to the other, both ways at once.
///
/// # Panics
///
/// If a byte is wrong or does not come.
pub fn tcp(client: &NetNs, server: &NetNs, to: &str) {
    let address: SocketAddr = to.parse().unwrap();
    let listener = server.enter(|| TcpListener::bind(address)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| exchange(&listener.accept().unwrap().0, 2, 1));
        scope.spawn(|| {
            let connect = || TcpStream::connect_timeout(&address, PATIENCE);
            exchange(&client.enter(connect).unwrap(), 1, 2);
        });
    });
}

/// `len` bytes by TCP, in one direction.
///
/// # Panics
///
/// If a byte is wrong or does not come.
pub fn tcp_one_way(client: &NetNs, server: &NetNs, to: &str, len: usize) {
    let address: SocketAddr = to.parse().unwrap();
    let listener = server.enter(|| TcpListener::bind(address)).unwrap();
    let wanted = bytes(len, 3);
    thread::scope(|scope| {
        scope.spawn(|| {
            let connect = || TcpStream::connect_timeout(&address, PATIENCE);
            let mut stream = client.enter(connect).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&wanted).unwrap();
        });
        let (mut stream, mut got) = (listener.accept().unwrap().0, Vec::with_capacity(len));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), len);
        assert!(got == wanted, "the bytes are others");
    });
}

fn exchange(stream: &TcpStream, ours: u64, theirs: u64) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = stream;
            stream.write_all(&bytes(BYTES, ours)).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let (mut stream, mut got) = (stream, Vec::with_capacity(BYTES));
        stream.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), BYTES);
        let wanted = bytes(BYTES, theirs);
        let wrong = (0..BYTES).find(|&i| got[i] != wanted[i]);
        assert_eq!(wrong, None, "byte of the stream");
    });
}

/// UDP datagrams of all lengths there and back, one at a time.
///
/// # Panics
///
/// If one is wrong or does not come.
pub fn udp(client: &NetNs, server: &NetNs, from: &str, to: &str, longest: usize) {
    let [from, to]: [SocketAddr; 2] = [from, to].map(|a| a.parse().unwrap());
    let here = client.enter(|| UdpSocket::bind(from)).unwrap();
    let there = server.enter(|| UdpSocket::bind(to)).unwrap();
    for socket in [&here, &there] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut buf = vec![0; 1 << 16];
    for (salt, len) in (1..).zip((1..=longest).step_by(longest / 40)) {
        let sent = bytes(len, salt);
        here.send_to(&sent, to).unwrap();
        let (n, who) = there.recv_from(&mut buf).unwrap();
        assert!(buf[..n] == sent, "datagram of {len} bytes");
        assert_eq!(who, from);
        there.send_to(&buf[..n], who).unwrap();
        let (n, _) = here.recv_from(&mut buf).unwrap();
        assert!(buf[..n] == sent, "datagram of {len} bytes, back");
    }
}
