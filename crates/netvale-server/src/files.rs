//! Memory files for the control plane to give out.

use std::error::Error;

use netvale_shm::{HugePages, Mem, Memfd};
use netvale_switch::domain::MemSource;

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

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        line = format!("{line}: {e}");
        cause = e.source();
    }
    line
}
