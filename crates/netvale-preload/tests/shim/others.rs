//! Programs that have nothing to do with netmap: under the shim they do, and
//! print, what they do without.

use std::process::{Command, Stdio};

use netvale_testkit::{Place, TempDir, skip};

use crate::bed::{Running, Shim, compile, library};

/// Both runs of a command, and whether they are alike. A namespace that does
/// not exist must not be made.
fn undisturbed(make: impl Fn() -> Command) {
    let dir = TempDir::new();
    let ns = dir.path().join("ns");
    let plain = {
        let mut command = make();
        command.env_remove("LD_PRELOAD");
        Running::start(command).finish()
    };
    let mut command = make();
    command.env("LD_PRELOAD", library()).env("NETVALE_NS", &ns);
    let shimmed = Running::start(command).finish();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(plain.status.success(), "{}", text(&plain.stderr));
    assert_eq!(text(&plain.stdout), text(&shimmed.stdout));
    assert_eq!(text(&plain.stderr), text(&shimmed.stderr));
    assert_eq!(plain.status, shimmed.status);
    assert!(!ns.exists(), "a server was started for nothing");
}

/// Whether there is such a program here.
fn has(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        skip(program, &format!("there is no {program}: install it"));
    }
    found
}

#[test]
fn a_threaded_server() {
    let dir = TempDir::new();
    let Some(program) = compile("plain", dir.path()) else {
        return;
    };
    undisturbed(|| Command::new(&program));
}

const SHELL: &str = r#"
set -o pipefail
for i in $(seq 1 40); do echo "line $i"; done | grep -c 1 | tee /dev/stderr | sed 's/^/n=/'
x=$(printf '%s\n' a b c | while read -r l; do echo "<$l>"; done); echo "$x"
exec 9>&1; echo nine >&9; exec 9>&-
echo to-nine 2>/dev/null >&9 || echo closed
diff <(seq 1 5) <(seq 1 6) || echo differs $?
{ sleep 0.05; echo background; } & wait $!; echo waited $?
( trap 'echo trapped' TERM; kill -TERM $BASHPID; echo after )
cat <<< here; cat < /nowhere 2>&1 | sed 's/.*: //'
test -e /dev/null && test ! -e /nowhere && echo tests
coproc tr a-z A-Z; exec 8<&"${COPROC[0]}"
echo shout >&"${COPROC[1]}"; eval "exec ${COPROC[1]}>&-"; cat <&8; exec 8<&-
ulimit -n 64; seq 1 3 | xargs -n1 echo; exit 0
"#;

#[test]
fn a_shell() {
    if has("bash") {
        undisturbed(|| {
            let mut bash = Command::new("bash");
            bash.arg("-c").arg(SHELL);
            bash
        });
    }
}

const PYTHON: &str = r#"
import asyncio, os, select, socket, subprocess, sys, threading, signal, mmap
def child(i):
    return subprocess.run(["cat"], input=f"child {i}".encode(), capture_output=True).stdout.decode()
out = [None] * 12
def work(i):
    out[i] = child(i)
ts = [threading.Thread(target=work, args=(i,)) for i in range(12)]
[t.start() for t in ts]; [t.join() for t in ts]
print(out)
print(subprocess.run("exec 3>&1; echo shell >&3", shell=True, capture_output=True, close_fds=True).stdout)
async def serve():
    async def handle(r, w):
        w.write((await r.readline()).upper()); await w.drain(); w.close()
    s = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = s.sockets[0].getsockname()[1]
    async def ask(i):
        r, w = await asyncio.open_connection("127.0.0.1", port)
        w.write(f"hello {i}\n".encode()); line = await r.readline(); w.close(); return line
    got = await asyncio.gather(*[ask(i) for i in range(50)])
    p = await asyncio.create_subprocess_exec("echo", "async", stdout=subprocess.PIPE)
    print(len(got), got[7], (await p.communicate())[0])
    s.close()
asyncio.run(serve())
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
r, w = os.pipe()
socket.send_fds(a, [b"fds"], [r, w])
msg, fds, _, _ = socket.recv_fds(b, 10, 4)
os.write(fds[1], b"through"); print(msg, os.read(r, 10))
ep = select.epoll(); ep.register(b, select.EPOLLIN); a.send(b"x"); print(len(ep.poll(1)), select.select([b], [], [], 0)[0] == [b])
pid = os.fork()
if pid == 0:
    os.closerange(3, 1000); os._exit(6)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
hits = []
signal.signal(signal.SIGALRM, lambda *x: hits.append(1)); signal.setitimer(signal.ITIMER_REAL, 0.02)
select.poll().poll(100); print(hits)
m = mmap.mmap(-1, 8192); m[:3] = b"abc"; m.resize(65536); print(m[:3]); m.close()
for path in ("/nowhere", "/proc/self/mem/x"):
    try: open(path)
    except OSError as e: print(e.errno)
"#;

#[test]
fn python() {
    if has("python3") {
        undisturbed(|| {
            let mut python = Command::new("python3");
            python.arg("-c").arg(PYTHON);
            python
        });
    }
}

/// A program that uses netmap and starts others: those know nothing of it.
#[test]
fn children_of_a_program_with_ports() {
    if !has("python3") {
        return;
    }
    const PROGRAM: &str = r#"
import os, subprocess, fcntl, struct, ctypes
fd = os.open("/dev/netmap", os.O_RDWR)
name = b"vale0:py".ljust(16, b"\0")
req = bytearray(name + struct.pack("<I", 14) + bytes(40))
fcntl.ioctl(fd, 0xc03c6992, req)
before = sorted(os.listdir("/proc/self/fd"))
for i in range(30):
    assert subprocess.run(["sh", "-c", "echo a | cat; exec 5>&1; echo b >&5"], capture_output=True).stdout == b"a\nb\n"
    fcntl.ioctl(fd, 0x6994)
assert subprocess.run(["sh", "-c", f"test -e /proc/self/fd/{fd}"]).returncode == 1
assert subprocess.run(["sh", "-c", f"test -e /proc/self/fd/{fd}"], pass_fds=[fd]).returncode == 0
for f in os.listdir("/proc/self/fd"):
    if int(f) not in (0, 1, 2, fd):
        try: os.close(int(f))
        except OSError: pass
fcntl.ioctl(fd, 0x6994)
fcntl.ioctl(fd, 0x6995)
print("fine")
"#;
    for place in [Place::Trusted, Place::Isolated] {
        let Some(shim) = Shim::new(place, "life") else {
            return;
        };
        let mut python = Command::new("python3");
        python.arg("-c").arg(PROGRAM);
        shim.dress(&mut python);
        let out = Running::start(python).finish();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success() && out.stdout == b"fine\n", "{said}");
        shim.bed.assert_empty();
    }
}
