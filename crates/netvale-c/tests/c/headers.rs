//! The headers compile as every dialect that programs use, without a warning,
//! and mean what netmap's mean.

use crate::cc::{cc, cxx, here, run};
use netvale_testkit::{TempDir, skip};

const HEADERS: [&str; 6] = [
    "net/netmap.h",
    "net/netmap_user.h",
    "net/netmap_virt.h",
    "libnetmap.h",
    "netvale.h",
    "net/netmap_user.h>\n#include <libnetmap.h>\n#include <net/netmap_virt.h",
];
const STRICT: [&str; 3] = ["-Wall", "-Wextra", "-Werror"];

/// Calls what the packet library has, so that its functions are compiled.
const USE_ALL: &str = "
#include <stdio.h>
#define NETMAP_WITH_LIBS
#include <net/netmap_user.h>
static void got(unsigned char *n, const struct nm_pkthdr *h, const unsigned char *d)
{
	(*n)++;
	(void)h;
	(void)d;
}
int main(void)
{
	unsigned char n = 0;
	struct nm_pkthdr h;
	struct nm_desc *d = nm_open(\"netmap:x\", NULL, NM_OPEN_NO_MMAP, NULL);

	if (d == NULL) {
		D(\"no %s\", \"port\");
		RD(1, \"none\");
		ND(\"nothing\");
		return 1;
	}
	nm_inject(d, &n, 1);
	nm_dispatch(d, -1, got, &n);
	while (nm_nextpkt(d, &h))
		n++;
	NETMAP_WOFFSET(d->some_ring, d->some_ring->slot, 3);
	return nm_close(d) + NETMAP_FD(d) + (int)NETMAP_BUF_IDX(d->some_ring, d->buf_start);
}
";

/// Every header alone, twice, with and without the packet library.
fn sources() -> Vec<String> {
    let mut sources = vec![USE_ALL.to_owned()];
    for header in HEADERS {
        for libs in ["", "#define NETMAP_WITH_LIBS\n"] {
            let include = format!("#include <{header}>\n");
            sources.push(format!(
                "{libs}{include}{include}int x(void);\nint x(void) {{ return 0; }}\n"
            ));
        }
    }
    sources
}

#[test]
fn headers_compile_as_c() {
    let dir = TempDir::new();
    for (n, source) in sources().into_iter().enumerate() {
        let file = dir.path().join(format!("{n}.c"));
        std::fs::write(&file, source).unwrap();
        for std in ["-std=c99", "-std=c11", "-std=gnu17"] {
            run(cc()
                .args(STRICT)
                .args([std, "-O1", "-c", "-o"])
                .arg(dir.path().join("o"))
                .arg(&file));
        }
    }
}

#[test]
fn headers_compile_as_cxx() {
    if cxx().is_none() {
        skip(
            "headers::headers_compile_as_cxx",
            "needs a C++ compiler (apt-get install g++)",
        );
        return;
    }
    let dir = TempDir::new();
    for (n, source) in sources().into_iter().enumerate() {
        let file = dir.path().join(format!("{n}.cc"));
        std::fs::write(&file, source).unwrap();
        let mut cxx = cxx().unwrap();
        cxx.args(STRICT).args(["-std=c++17", "-O1", "-c", "-o"]);
        run(cxx.arg(dir.path().join("o")).arg(&file));
    }
}

/// The inline functions, on a region that the program makes itself.
#[test]
fn inline_functions_mean_the_same() {
    let dir = TempDir::new();
    let program = dir.path().join("inline");
    let source = here("tests/c/inline.c");
    run(cc()
        .args(STRICT)
        .args(["-O2", "-o"])
        .arg(&program)
        .arg(source));
    assert_eq!(run(&mut std::process::Command::new(&program)), "ok\n");
}
