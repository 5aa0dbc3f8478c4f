//! When servers start and end.

use std::time::Duration;

use netvale_server::{Config, DirError, Server, StartError};
use netvale_wire::proto::{ErrorKind, Reply, Request, Wanted};

use crate::bed::{Bed, SOON, refused, register};

#[test]
fn on_demand_it_ends_with_the_last_connection() {
    let mut bed = Bed::with(|c| {
        c.service = false;
        c.grace = Duration::from_millis(50);
    });
    let mut a = bed.connect();
    register(&mut a, "vale0:a");
    assert!(!bed.ends_within(Duration::from_millis(300)));
    drop(a);
    assert!(bed.ends_within(SOON));
    assert_eq!(std::fs::read_dir(&bed.dir).unwrap().count(), 0);
}

#[test]
fn a_persistent_port_keeps_it() {
    let mut bed = Bed::with(|c| {
        c.service = false;
        c.grace = Duration::from_millis(20);
    });
    let mut c = bed.connect();
    let newif = Request::NewIf {
        name: "p0".into(),
        want: Wanted::default(),
        region: None,
        link: false,
    };
    c.ask(&newif).unwrap();
    drop(c);
    assert!(!bed.ends_within(Duration::from_millis(300)));
    bed.connect()
        .ask(&Request::DelIf { name: "p0".into() })
        .unwrap();
    assert!(bed.ends_within(SOON));
}

#[test]
fn it_ends_when_told() {
    let mut bed = Bed::new();
    let (mut a, mut c) = (bed.connect(), bed.connect());
    register(&mut a, "vale0:a");
    let stop = |force| Request::Shutdown { force };
    assert_eq!(refused(&mut c, &stop(false)), ErrorKind::Busy);
    assert_eq!(c.ask(&stop(true)).unwrap().0, Reply::Done);
    assert!(bed.ends_within(SOON));
    a.reply().unwrap_err();
}

#[test]
fn of_many_one_wins() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("ns");
    let starts: Vec<_> = (0..8)
        .map(|_| {
            let dir = dir.clone();
            std::thread::spawn(move || Server::start(Config::at(dir), None))
        })
        .collect();
    // All at once, so that no winner is gone before the last has tried.
    let all: Vec<_> = starts.into_iter().map(|t| t.join().unwrap()).collect();
    let won = all.iter().filter(|s| s.is_ok()).count();
    assert_eq!(won, 1);
    for lost in all.iter().filter_map(|s| s.as_ref().err()) {
        assert!(
            matches!(lost, StartError::Dir(DirError::Taken { .. })),
            "{lost}"
        );
    }
    drop(all);
    Server::start(Config::at(&dir), None).unwrap();
}

#[test]
fn ports_of_the_configuration_are_there() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("c.toml");
    std::fs::write(
        &file,
        "ageing_seconds = 1\n[[port]]\nname = \"p0\"\nrings = 2\nattach = \"vale7\"\n[[port]]\nname = \"p1\"\n",
    )
    .unwrap();
    let bed = Bed::with(|c| *c = Config::load(&file, c.clone()).unwrap());
    let names: Vec<String> = bed.ports().into_iter().map(|p| p.name).collect();
    assert_eq!(names, ["vale7:p0", "p1"]);
    let bad = Config {
        ports: vec![netvale_server::PortConfig {
            name: "vale0:x".into(),
            rings: 0,
            slots: 0,
            attach: None,
            link: false,
            line: 0,
        }],
        ..Config::at(tmp.path().join("other"))
    };
    let told = |config| Server::start(config, None).unwrap_err().to_string();
    let e = told(bad);
    assert!(e.starts_with("cannot make port vale0:x: "), "{e}");
    // With the line, if there is one.
    for (bad, said) in [
        (
            "[[port]]\nname = \"vale0:x\"\n",
            "line 2: cannot make port vale0:x: ",
        ),
        (
            "[[attach]]\nswitch = \"vale0\"\ndevice = \"nvnone0\"\n",
            "line 2: cannot attach nvnone0 to vale0: ",
        ),
    ] {
        std::fs::write(&file, format!("\n{bad}")).unwrap();
        let config = Config::load(&file, Config::at(tmp.path().join("other"))).unwrap();
        let e = told(config);
        assert!(e.starts_with(said), "{e}");
    }
}
