//! Clients that do not play by the rules.

use std::os::fd::AsFd;
use std::time::Duration;

use netvale_shm::Doorbell;
use netvale_shm::channel::Channel;
use netvale_wire::proto::{ErrorKind, MAX_MSG, Reply, Request, SOCKET_NAME, encode};
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};

use crate::bed::{Bed, SOON, eventually, refused, register};

fn raw(bed: &Bed) -> Channel {
    Channel::connect(&bed.dir, SOCKET_NAME, SOON).unwrap()
}

/// Sends it; the server may answer or hang up, but must stay.
fn poke(bed: &Bed, message: &[u8]) {
    let channel = raw(bed);
    let mut buf = vec![0; MAX_MSG];
    if channel.send(message, &[]).is_ok() {
        channel.recv(&mut buf, &mut Vec::new()).ok();
    }
}

#[test]
fn any_bytes_are_answered_or_refused() {
    let bed = Bed::new();
    let mut runner = TestRunner::new(Runs::with_cases(300));
    runner
        .run(&prop::collection::vec(any::<u8>(), 1..300), |bytes| {
            poke(&bed, &bytes);
            Ok(())
        })
        .unwrap();
    bed.assert_sound();
}

/// Valid requests with one word changed, after a valid greeting.
#[test]
fn mutated_requests_do_no_harm() {
    let bed = Bed::with(|c| c.domain.huge = false);
    let templates = [
        r#"{"op":"register","spec":"vale0:a","want":{"tx_rings":1,"rx_rings":1,"tx_slots":64,"rx_slots":64,"extra_bufs":3,"vnet_hdr":10}}"#,
        r#"{"op":"register","spec":"vale0:a{1@conf:tx-rings=2,rx-slots=9","want":{}}"#,
        r#"{"op":"region","id":1,"generation":1}"#,
        r#"{"op":"doorbell","owner":1}"#,
        r#"{"op":"list","after":{"switch":0,"index":0,"name":"a"}}"#,
        r#"{"op":"info","spec":"vale0:b"}"#,
        r#"{"op":"stats","name":"vale0:a","after":"b"}"#,
        r#"{"op":"fdb","switch":"vale0","after":{"port_index":1,"mac":3}}"#,
        r#"{"op":"attach","spec":"vale0:p"}"#,
        r#"{"op":"detach","spec":"vale0:p"}"#,
        r#"{"op":"new_if","name":"p","want":{"tx_slots":64},"region":1}"#,
        r#"{"op":"del_if","name":"p"}"#,
        r#"{"op":"set_hdr","name":"vale0:a","len":12}"#,
        r#"{"op":"get_hdr","name":"vale0:a"}"#,
        r#"{"op":"check","after":1}"#,
        r#"{"op":"whoami"}"#,
        r#"{"op":"status"}"#,
    ];
    let words = prop::sample::select(vec![
        "0",
        "1",
        "-1",
        "65535",
        "4294967295",
        "18446744073709551615",
        "1e9",
        "null",
        "true",
        "{}",
        "[]",
        "\"\"",
        "\"vale0:a\"",
        "\"vale0:a/z\"",
        "\"null:\"",
        "\"vale0:a}1\"",
        "\"p\"",
        "\"netmap:p\"",
        "\"vale0:a/x-3@1\"",
    ]);
    let change = (
        0..templates.len(),
        any::<prop::sample::Index>(),
        words,
        any::<bool>(),
    );
    let case = prop::collection::vec(change, 1..8);
    let mut runner = TestRunner::new(Runs::with_cases(400));
    runner
        .run(&case, |changes| {
            let mut remote = netvale_server::remote::Remote::connect(&bed.dir, changes[0].3)
                .unwrap()
                .0;
            for (i, at, word, _) in changes {
                let text = mutate(templates[i], at, word);
                remote.channel().send(text.as_bytes(), &[]).unwrap();
                let reply = remote.reply();
                prop_assert!(reply.is_ok(), "{text}: {reply:?}");
            }
            Ok(())
        })
        .unwrap();
    bed.assert_sound();
}

/// Replaces one value of an object.
fn mutate(template: &str, at: prop::sample::Index, word: &str) -> String {
    let colons: Vec<usize> = template.match_indices("\":").map(|(i, _)| i + 2).collect();
    let from = colons[at.index(colons.len())];
    let rest = &template[from..];
    let mut depth = 0i32;
    let mut quoted = false;
    let end = rest
        .char_indices()
        .find(|&(_, c)| {
            match c {
                '"' => quoted = !quoted,
                '{' if !quoted => depth += 1,
                '}' if !quoted => depth -= 1,
                _ => {}
            }
            !quoted && (depth < 0 || (depth == 0 && c == ','))
        })
        .map_or(rest.len(), |(i, _)| i);
    format!("{}{}{}", &template[..from], word, &rest[end..])
}

#[test]
fn too_long_too_short_and_unwanted_descriptors() {
    let bed = Bed::new();
    poke(&bed, &vec![b'x'; MAX_MSG + 1]);
    poke(&bed, &vec![b' '; 100_000]);
    poke(&bed, b"");
    let endless = Request::DelIf {
        name: "\u{1}".repeat(10_000),
    };
    let mut c = bed.connect();
    assert_eq!(refused(&mut c, &endless), ErrorKind::NotFound);
    let bell = Doorbell::new().unwrap();
    let status = encode(&Request::Status).unwrap();
    let fds = [bell.as_fd(), bell.as_fd(), bell.as_fd()];
    c.channel().send(&status, &fds).unwrap();
    assert!(matches!(c.reply().unwrap().0, Reply::Status(_)));
    bed.assert_sound();
}

/// Somebody who asks and asks and never listens.
#[test]
fn a_client_that_does_not_read_stops_nobody() {
    let bed = Bed::new();
    let mut deaf = bed.connect();
    register(&mut deaf, "vale0:deaf");
    let list = encode(&Request::List { after: None }).unwrap();
    rustix::net::sockopt::set_socket_timeout(
        deaf.channel(),
        rustix::net::sockopt::Timeout::Send,
        Some(Duration::from_millis(200)),
    )
    .unwrap();
    let mut asked = 0;
    while asked < 100_000 && deaf.channel().send(&list, &[]).is_ok() {
        asked += 1;
    }
    assert!(asked < 100_000, "the server keeps answers for ever");
    assert_eq!(bed.ports().len(), 1);
    // When it does listen, every answer is there.
    for _ in 0..asked {
        assert!(matches!(deaf.reply().unwrap().0, Reply::Ports { .. }));
    }
    drop(deaf);
    assert!(eventually(SOON, || bed.ports().is_empty()));
}

#[test]
fn a_deaf_client_can_be_closed() {
    let bed = Bed::new();
    let mut deaf = bed.connect();
    register(&mut deaf, "vale0:deaf");
    let list = encode(&Request::List { after: None }).unwrap();
    rustix::net::sockopt::set_socket_timeout(
        deaf.channel(),
        rustix::net::sockopt::Timeout::Send,
        Some(Duration::from_millis(100)),
    )
    .unwrap();
    while deaf.channel().send(&list, &[]).is_ok() {}
    drop(deaf);
    assert!(eventually(SOON, || bed.ports().is_empty()));
}
