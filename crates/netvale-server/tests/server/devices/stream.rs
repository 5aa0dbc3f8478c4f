//! TCP, UDP and echoes between namespaces, with every byte compared.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use netvale_testkit::PATIENCE;
use netvale_testkit::net::NetNs;

const BYTES: usize = 4 << 20;

/// A byte of the pattern that one side sends.
fn pattern(at: usize, salt: u8) -> u8 {
    let [a, b, c, ..] = at.to_le_bytes();
    a ^ b.wrapping_mul(31) ^ c.wrapping_mul(17) ^ salt
}

/// TCP both ways at once.
pub(super) fn tcp(client: &NetNs, server: &NetNs, to: &str) {
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

fn exchange(stream: &TcpStream, ours: u8, theirs: u8) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let bytes: Vec<u8> = (0..BYTES).map(|i| pattern(i, ours)).collect();
            let mut stream = stream;
            stream.write_all(&bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let (mut stream, mut got) = (stream, Vec::with_capacity(BYTES));
        stream.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), BYTES);
        let wrong = (0..BYTES).find(|&i| got[i] != pattern(i, theirs));
        assert_eq!(wrong, None, "byte of the stream");
    });
}

/// UDP datagrams of all lengths there and back, one at a time.
pub(super) fn udp(client: &NetNs, server: &NetNs, from: &str, to: &str, longest: usize) {
    let [from, to]: [SocketAddr; 2] = [from, to].map(|a| a.parse().unwrap());
    let here = client.enter(|| UdpSocket::bind(from)).unwrap();
    let there = server.enter(|| UdpSocket::bind(to)).unwrap();
    for socket in [&here, &there] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut buf = vec![0; 1 << 16];
    for (i, len) in (1..=longest).step_by(longest / 40).enumerate() {
        let bytes: Vec<u8> = (0..len).map(|at| pattern(at, i.to_le_bytes()[0])).collect();
        here.send_to(&bytes, to).unwrap();
        let (n, who) = there.recv_from(&mut buf).unwrap();
        assert!(buf[..n] == bytes, "datagram of {len} bytes");
        assert_eq!(who, from);
        there.send_to(&buf[..n], who).unwrap();
        let (n, _) = here.recv_from(&mut buf).unwrap();
        assert!(buf[..n] == bytes, "datagram of {len} bytes, back");
    }
}
