//! Memory files for the control plane to give out.

use netvale_shm::{HugePages, Mem, Memfd};
use netvale_switch::domain::MemSource;

pub(crate) use netvale_lane::chain;

/// Makes sealed memory files, in huge pages where that is wanted.
#[derive(Debug)]
pub(crate) struct FileSource {
    huge: HugePages,
}

impl FileSource {
    pub(crate) fn new(huge: HugePages) -> Self {
        Self { huge }
    }
}

impl MemSource for FileSource {
    type File = Memfd;

    fn create(&mut self, name: &str, len: usize, huge: bool) -> Result<(Mem, Memfd), String> {
        let huge = if huge { self.huge } else { HugePages::Never };
        let file = Memfd::create(name, len, huge).map_err(|e| chain(&e))?;
        let mem = file.map().map_err(|e| chain(&e))?;
        Ok((mem, file))
    }
}
