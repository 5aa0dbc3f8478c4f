//! The tools are killed at any instant; whoever else is there goes on.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use netvale_testkit::frame::{BROADCAST, mac, tagged};
    use netvale_testkit::io::{recv, send};
    use netvale_testkit::{Bed, Place, Rng, eventually};

    /// Killed when dropped.
    struct Tool {
        child: Child,
        args: &'static [&'static str],
        said: PathBuf,
    }

    impl Tool {
        fn start(bed: &Bed, args: &'static [&'static str]) -> Self {
            let at = TOOLS.iter().position(|t| *t == args).unwrap();
            let said = bed.scratch().join(format!("tool-{at}"));
            let mut command = Command::new(env!("CARGO_BIN_EXE_netvale"));
            command.args(args).env("NETVALE_NS", bed.dir());
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command.stderr(File::create(&said).unwrap());
            let child = command.spawn().unwrap();
            Self { child, args, said }
        }

        fn kill(&mut self) {
            if let Some(status) = self.child.try_wait().unwrap() {
                let said = std::fs::read_to_string(&self.said).unwrap();
                panic!("{:?} has ended by itself: {status}: {said}", self.args);
            }
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }

    impl Drop for Tool {
        fn drop(&mut self) {
            let _ = self.child.kill(); // it may be dead
            let _ = self.child.wait();
        }
    }

    const TOOLS: &[&[&str]] = &[
        &["pkt-gen", "-i", "vale0:tx", "-f", "tx"],
        &["pkt-gen", "-i", "vale0:rx", "-f", "rx"],
        &["pkt-gen", "-i", "vale5:s/rt", "-f", "rx"],
        &["pkt-gen", "-i", "vale5:r/z", "-f", "rx"],
        &["bridge", "-i", "vale0:left", "-i", "vale1:right"],
        &["pkt-gen", "-i", "vale1:tx", "-f", "tx", "-l", "1000"],
        &["pkt-gen", "-i", "vale0:x{1", "-f", "tx"],
        &["pkt-gen", "-i", "vale0:x}1", "-f", "rx"],
        &["--isolated", "pkt-gen", "-i", "vale1:iso", "-f", "tx"],
    ];

    #[test]
    fn tools_are_killed() {
        let bed: Bed = Place::Trusted.up();
        let mut rng = Rng::announced("tools_are_killed");
        let mut s = bed.ns().open("vale5:s").unwrap();
        let mut r = bed.ns().open("vale5:r").unwrap();
        let start = |args| Tool::start(&bed, args);
        let mut tools: Vec<Tool> = TOOLS.iter().map(|args| start(args)).collect();
        eventually("all are at work", || {
            bed.ns().list().unwrap().len() >= TOOLS.len()
        });
        for seq in 0..100 {
            let i = rng.below(tools.len());
            tools[i].kill();
            tools[i] = start(TOOLS[i]);
            std::thread::sleep(Duration::from_millis(rng.below(30) as u64));
            for n in 0..50 {
                let f = tagged(BROADCAST, mac(1), 100, 1, seq * 50 + n);
                send(&mut s, &f);
                assert_eq!(recv(&mut r), f);
            }
            r.rx(0).sync().unwrap();
        }
        drop(tools);
        drop((s, r));
        bed.assert_empty();
    }
}
