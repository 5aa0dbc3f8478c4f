//! (placeholder: the control-protocol client is being written)
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::Backend;
use crate::{Error, ErrorKind, Result};

pub(crate) fn default_path() -> PathBuf {
    std::env::var_os("NETVALE_NS").map_or_else(|| "/run/netvale".into(), PathBuf::from)
}

pub(crate) fn connect(path: &Path, _spawn: bool) -> Result<Arc<dyn Backend>> {
    Err(Error::new(ErrorKind::Disconnected, format!("{}: no server", path.display())))
}
