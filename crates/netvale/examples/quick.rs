//! quick measurement
use std::time::{Duration, Instant};
fn run(keep: bool, len: u16, batch: u32, name: (&str, &str)) -> netvale::Result<f64> {
    let ns = netvale::Namespace::embedded()?;
    let mut a = ns.port(name.0).keep_buffers(keep).open()?;
    let mut b = ns.port(name.1).keep_buffers(keep).open()?;
    let mut f = vec![0u8; len as usize];
    f[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    let mut g = f.clone();
    g[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    g[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    b.tx(0).push(&g).unwrap();
    b.tx(0).sync()?;
    for _ in 0..3 {
        a.tx(0).fill(&f).unwrap();
        a.tx(0).push_resident(1023, len);
        a.tx(0).sync()?;
        b.rx(0).sync()?;
        b.rx(0).discard(4096);
        b.rx(0).sync()?;
    }
    a.tx(0).fill(&f).unwrap();
    let t = Instant::now();
    let mut n = 0u64;
    while t.elapsed() < Duration::from_millis(700) {
        for _ in 0..64 {
            a.tx(0).push_resident(batch, len);
            a.tx(0).sync()?;
            b.rx(0).sync()?;
            n += u64::from(b.rx(0).discard(4096).0);
            if batch > 256 {
                b.rx(0).sync()?;
            }
        }
    }
    let r = n as f64 / t.elapsed().as_secs_f64();
    let _ = b.stats()?;
    Ok(r / 1e6)
}
fn main() -> netvale::Result<()> {
    let a: Vec<String> = std::env::args().collect();
    if a.len() > 1 {
        println!(
            "{}",
            run(
                a[1] != "s",
                a[2].parse().unwrap(),
                a[3].parse().unwrap(),
                if a[1] == "p" {
                    ("vale0:p{1", "vale0:p}1")
                } else {
                    ("vale0:a", "vale0:b")
                }
            )?
        );
        return Ok(());
    }
    for _ in 0..2 {
        for (l, ba) in [(60, 512), (60, 16), (60, 1), (1514, 512)] {
            println!(
                "copy {l} b{ba}: {:.1}  raw {:.1}",
                run(true, l, ba, ("vale0:a", "vale0:b"))?,
                netvale::raw::one_core_copy(l, ba, Duration::from_millis(500)) / 1e6
            );
        }
        println!(
            "swap 1514: {:.1} raw {:.1}",
            run(false, 1514, 512, ("vale0:a", "vale0:b"))?,
            netvale::raw::one_core_swap(1514, 512, Duration::from_millis(500)) / 1e6
        );
        println!(
            "pipe 60: {:.1}",
            run(true, 60, 512, ("vale0:p{1", "vale0:p}1"))?
        );
    }
    Ok(())
}
